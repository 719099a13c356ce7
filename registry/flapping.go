package registry

import "time"

// An instance that expires and comes back again and again costs everybody: each
// time epochs rise, connections are cut, and all who know it read its record.
// Or somebody holds its line and lets through what suits him. So it is let in
// again later each time.
const (
	// flapWindow is how soon a readmission has to follow the one before to count.
	// After as much quiet the count begins anew.
	flapWindow = time.Hour
	// flapFree is how many readmissions in a row are not delayed.
	flapFree = 2
)

// flapDelays is how long after its expiry an instance waits for the first
// readmission that is delayed, and for those after it; the last of them counts
// from there on.
var flapDelays = [...]time.Duration{
	10 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute,
}

// Flapping returns how often the instance was readmitted, each time within an
// hour of the time before, and until when it is not let in again for that; zero
// where nothing is in its way.
func (i *Instance) Flapping(now time.Time) (flaps int, notBefore time.Time) {
	// A clock that was set back must not lock anybody out for a year: what lies
	// too far ahead was written by another clock than this one.
	if now.Sub(time.Unix(i.Readmitted, 0)).Abs() >= flapWindow {
		return 0, time.Time{}
	}
	until := time.Unix(i.NotBefore, 0)
	if wait := until.Sub(now); wait <= 0 || wait > flapDelays[len(flapDelays)-1] {
		return i.Flaps, time.Time{}
	}
	return i.Flaps, until
}

// expire ends the authority of an instance that fell silent, and says when it may
// be back.
func (i *Instance) expire(now time.Time) {
	i.State = InstanceExpired
	i.Epoch++
	i.NotBefore = 0
	if flaps, _ := i.Flapping(now); flaps >= flapFree {
		i.NotBefore = now.Add(flapDelays[min(flaps-flapFree, len(flapDelays)-1)]).Unix()
	}
}

// readmit brings an expired instance back and counts it.
func (i *Instance) readmit(now time.Time) {
	flaps, _ := i.Flapping(now)
	i.Flaps = flaps + 1
	i.Readmitted = now.Unix()
	i.NotBefore = 0
	i.State = Online
	i.Epoch++
}
