// Package meshfile implements the mesh as code: agents.yaml, which says which
// agents there are, what each may do and which topics are durable, and the plan
// of what makes a mesh so (docs/operations.md, "The mesh as code").
//
// Its laws:
//
//   - What the file says has one meaning. Unknown, double and empty keys are
//     errors with their line, and so are anchors, aliases, tags and further
//     documents: nobody reviews what a reader cannot see.
//   - A section that the file does not have is not its business. One that it has
//     is meant whole, but what it does not list is removed only where that is
//     asked for.
//   - The file has rights and settings. Keys, join tokens, states and delegations
//     are not in it, and neither is the control plane.
//   - Authority is taken before it is given, so that a right that moves is never
//     held by both, not for a moment and not after a failure half-way.
//   - A plan that would lock out whoever applies it is refused as a whole, before
//     the first change.
//
// Lifecycle: [Parse] a file, [Read] the mesh, [NewPlan] of the difference;
// [Applier.Apply] does all of it again until nothing differs. [Export] and
// [Mesh.Text] are the way back.
package meshfile
