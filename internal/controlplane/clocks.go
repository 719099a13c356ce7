package controlplane

import (
	"slices"
	"time"

	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/natsconf"
)

// stepMost is by how much a clock may run ahead of what it said before without
// being found to have been set. The replay store keeps a nonce for 30 seconds
// longer than it must.
const stepMost = 20 * time.Second

// clocks compares two wall clocks, the server's and this process's, with this
// machine's clock that cannot be set. The server ages what is stored by its own:
// set ahead, it forgets nonces before their time. This process's says from when
// on replays can be told: what it said while it was behind was too early. Setting
// either back does no harm.
type clocks struct{ seen []reading }

// reading is how far two wall clocks are ahead of the steady one.
type reading struct {
	at          time.Duration // by the steady clock
	least, most time.Duration // of the server's: an answer takes its time
	own         time.Duration
}

// look takes one reading: what the server's clock said between two moments of the
// steady clock, and the own one at the second. It returns which clock was set
// ahead since any reading for which the store still holds nonces, or nothing.
func (c *clocks) look(before, after time.Duration, server, own time.Time) string {
	r := reading{at: after, own: time.Duration(own.UnixNano()) - after}
	r.least = time.Duration(server.UnixNano()) - after
	r.most = time.Duration(server.UnixNano()) - before
	c.seen = slices.DeleteFunc(c.seen, func(old reading) bool { return after-old.at > natsconf.ReplayAge(limits.Window) })
	step := ""
	for _, old := range c.seen {
		switch {
		case r.least-old.most > stepMost:
			step = "the server's clock was set ahead"
		case r.own-old.own > stepMost:
			step = "the control plane's clock was set ahead"
		}
	}
	if step != "" {
		c.seen = nil
	}
	c.seen = append(c.seen, r)
	return step
}
