package agentdir_test

import (
	"os"
	"testing"

	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/floors"
)

// What a process took of trust documents, the next one in the directory knows, and an
// older document changes nothing, whoever brings it.
func TestTakeTrust(t *testing.T) {
	d := &agentdir.Dir{Path: t.TempDir()}
	for _, c := range []struct {
		version uint64
		taken   bool
	}{{7, true}, {7, false}, {6, false}, {1, false}, {8, true}, {7, false}} {
		before, _ := os.ReadFile(d.File(agentdir.CAFile))
		want := string(before)
		if c.taken {
			want = string(rune('0' + c.version))
		}
		// A process of its own: first one that read what was kept, then one that did not.
		for i, known := range []*floors.Set{kept(t, d), floors.New()} {
			taken, err := d.TakeTrust(known, c.version, []byte(string(rune('0'+c.version))))
			if err != nil || taken != (c.taken && i == 0) {
				t.Errorf("version %d: got %v, %v, want %v", c.version, taken, err, c.taken)
			}
			if got, err := os.ReadFile(d.File(agentdir.CAFile)); err != nil || string(got) != want {
				t.Errorf("version %d: the roots are %q, %v, want %q", c.version, got, err, want)
			}
			if known.Trust() < c.version {
				t.Errorf("version %d: the process knows of version %d", c.version, known.Trust())
			}
		}
		if got := kept(t, d).Trust(); got < c.version {
			t.Errorf("version %d: version %d was kept", c.version, got)
		}
	}
}
