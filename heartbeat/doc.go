// Package heartbeat implements how the mesh notices that an instance has died:
// what an instance sends ([Beat], [Sender]), and how a replica of the control
// plane judges what it does not hear ([Monitor], [Canary]).
//
// The laws:
//
//   - Silence is judged, never believed at once. A beat counts as missed only
//     if it could have arrived: the monitor judges while its own canary beat
//     comes back through the same stream, and after a start, a gap or a blind
//     spell everybody gets one full timeout. Nobody is expired before a canary
//     came back that was sent when his time was up: it comes in behind whatever
//     lay in the queues of a process that was stopped for a while.
//   - A beat proves life, it never gives it back. What is expired or revoked
//     stays so, whatever it sends; only a new admission ([Monitor.Watch]) under
//     a higher epoch starts a new watch.
//   - A beat counts once and forwards only: the sequence rises within its
//     session, a session that said good-bye or had to make room is over, an
//     epoch below the watched one is that of an instance that was cut.
//   - An instance lives while any of its sessions beats: processes that share a
//     key each have their own, and none speaks for the others.
//   - A clean exit is not death: an instance whose last session says that it is
//     leaving has left, with no alarm and no new epoch. A good-bye is that of the
//     last if no other session was heard within the timeout. Where another was,
//     the instance is watched on, and if nobody speaks again it has died.
//   - The monitor does not panic. If many would expire together it stops,
//     raises an alarm and lets an operator decide.
//   - Time is monotonic. A stepped wall clock expires nobody.
//
// Every replica watches and none leads: an expiry is a compare-and-set in the
// registry, so two replicas that come to the same judgement change it once. Each
// waits a little longer by an amount of its own, so that one is the first and the
// others hear of it ([Monitor.Expired]). What one holds back the others must not
// expire ([Monitor.Hold]); whoever wires them tells them.
//
// The package holds no connection. Beats travel as signed envelopes on
// mesh.beat.<agent>.<instance>; whoever wires it sends and verifies those, tells
// the monitor of admissions and revocations, and implements [Registry].
//
// A [Sender] and a [Monitor] each run goroutines from New until Close, which
// waits for them. All methods are safe for concurrent use.
package heartbeat
