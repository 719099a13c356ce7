package main

import (
	"fmt"
	"io"

	"github.com/sealmesh/sealmesh/internal/wire"
)

// writeOlder prints the records that are older than what the control plane saw of
// them before.
func writeOlder(w io.Writer, list []wire.OlderRecord) {
	if len(list) == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s older than seen before, and refused: the registry went back\n", count(len(list), "record"))
	rows := [][]string{{"RECORD", "WAS", "IS"}}
	for _, r := range list {
		is := "gone"
		if !r.Gone {
			is = stateOf(r.Status, r.Epoch, r.Revision)
		}
		rows = append(rows, []string{clean(r.Record), stateOf(r.KnownStatus, r.KnownEpoch, r.KnownRevision), is})
	}
	table(w, rows...)
}

func stateOf(status string, epoch, revision uint64) string {
	return clean(fmt.Sprintf("%s, epoch %d, revision %d", orDash(status), epoch, revision))
}
