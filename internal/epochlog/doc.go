// Package epochlog implements the control plane's own memory of the registry: the
// highest epoch and revision of every record that it wrote or saw, and the status
// that was then, in one file outside of JetStream. A registry that is put back to
// an older state, by a backup or by somebody who holds the service key, is found
// out by it: see registry.Memory.
//
// Its laws:
//
//   - What [Log.Keep] returned for is on the disk. The rest follows within
//     [Behind].
//   - The file only grows, by whole lines, each with its checksum; it is written
//     anew, without what is outdated, by a rename. Both happen under a lock, so
//     that any number of processes may share a directory.
//   - A line that a crash cut off is dropped. Anything else that does not read is
//     an error: a log that forgot silently would be taken for one that knows.
//
// Lifecycle: [Open] once, [Log.Close] at the end. Replicas on several hosts have
// one each; each knows what it saw.
package epochlog
