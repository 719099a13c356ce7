// Package meshdir implements the mesh directory: what `sealmesh init` makes and
// `sealmesh server` and `up` live from (docs/operations.md, "Files").
//
// Its laws:
//
//   - The directory is laid out by who mounts it. root/ is used by init and for
//     rotation only and belongs offline; server/ is for the control plane,
//     nats/ for nats-server and holds nothing that signs anything, agents/ for
//     whoever acts as those agents. The control plane needs sealmesh.yaml and
//     server/ alone.
//   - One secret a file, each 0600 and refused when wider; folders are 0700.
//   - [Init] makes everything or nothing, never touches what it did not make,
//     and writes sealmesh.yaml last: a directory without one is no mesh.
//   - In sealmesh.yaml an unknown key is an error, because a misspelt setting
//     that is silently ignored is a setting that somebody relies on.
//
// Lifecycle: [Init] once, [Load] at every start. A [Mesh] keeps no secret in
// memory; each is read when it is asked for.
package meshdir
