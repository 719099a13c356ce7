package attack_test

import (
	"strings"

	"github.com/sealmesh/sealmesh/internal/subject"
)

// connecting are attempts to be somebody else on a connection that was let in.
func connecting(a *arena) []attempt {
	c := a.person(carol)
	space := subject.Default()
	return []attempt{{
		name: "connect/a second time as another", covers: []int{40}, grant: narrow,
		do: func(x *try) {
			w := x.raw(x.t)
			w.connect(x.identify(x.t, w.server, mallory))
			if lines, alive := w.settle(); !alive {
				x.t.Fatalf("mallory cannot connect: %q", lines)
			}
			w.connect(x.identify(x.t, w.server, carol))
			w.send("SUB %s 1", space.NoteFilter(c.id))
			lines, alive := w.settle()
			x.won = alive && !strings.Contains(strings.Join(lines, "\n"), "-ERR")
		},
	}}
}
