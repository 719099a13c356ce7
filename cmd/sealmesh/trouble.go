package main

import (
	"fmt"
	"io"

	"github.com/sealmesh/sealmesh/internal/wire"
)

// writeTrouble prints what keeps an instance away, and who else has its key.
func writeTrouble(w io.Writer, i wire.InstanceView) {
	if i.Flaps > 1 || i.NotBefore != nil {
		wait := ""
		if i.NotBefore != nil {
			wait = ", and is not let in again before " + when(i.NotBefore)
		}
		fmt.Fprintf(w, "%s came back from expired %s, each within an hour of the last%s\n", i.Instance, timesOver(i.Flaps), wait)
	}
	if c := i.Clones; c != nil {
		fmt.Fprintf(w, "%s: its key is in use on several hosts since %s: %s\n", i.Instance, when(&c.Since), listed(c.Hosts))
	}
}

func timesOver(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}
