package meshfile_test

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"github.com/sealmesh/sealmesh/internal/meshfile"
)

// Whatever can be read is written so that it is read again as the same, and
// written again to the same bytes; whatever cannot is refused with a place.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		whole, "version: 1\n", "version: 1\nagents: {}\ntopics: {}\n", "{\"version\":1,\"agents\":{\"a\":{\"call\":[\"read:a\"]}}}",
		"version: 1\nagents:\n  a:\n    call:\n    - read:a\n    labels: {a: 'b''c', d: \"\\u200b\"}\n", "version: 1\nagents: {a: {call: [\n  read:a]}}\n",
		"a: &a [x]\nb: *a\n", "? a\n: b\n", "--- |\n x\n", "version: 1 # x\nagents:\n  a: {kind: job, stock: true, heartbeat: session, depth: 8}\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := parse(string(text))
		if err != nil {
			var e *meshfile.Error
			if !errors.As(err, &e) || e.Path == "" || e.Problem == "" {
				t.Fatalf("got %T %v", err, err)
			}
			return
		}
		written := m.Text()
		again, err := parse(string(written))
		if err != nil {
			t.Fatalf("%v in what was written:\n%s", err, written)
		}
		if !reflect.DeepEqual(m, again) {
			t.Fatalf("got %+v\nwant %+v\nof\n%s", again, m, written)
		}
		if b := again.Text(); !bytes.Equal(b, written) {
			t.Fatalf("got\n%s\nthe second time, first\n%s", b, written)
		}
	})
}
