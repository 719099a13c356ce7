package envelope_test

import (
	"testing"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
)

// Attack 22: parts reordered, dropped, doubled, spliced, or ended early.
func TestStream(t *testing.T) {
	caller, handler, other := agent(t, "writer"), agent(t, "reader"), agent(t, "mallory")
	_, request := caller.sign(t, caller.fields(), call, nil, "tail", nil)
	part := func(by identity, parent string, p envelope.Part) *envelope.Verified {
		f := by.fields()
		f.Nonce, f.Parent, f.Hop, f.Part = envelope.NewNonce(), parent, 1, p
		m, _ := by.sign(t, f, replyTo(caller, parent), nil, "x", &request)
		return by.mustVerify(t, m, &request)
	}
	asked, elsewhere := caller.fields().Nonce, envelope.NewNonce()
	n := func(i int) *envelope.Verified { return part(handler, asked, envelope.Part{Number: i}) }
	last := func(i int) *envelope.Verified { return part(handler, asked, envelope.Part{Number: i, Last: true}) }
	for name, c := range map[string]struct {
		parts []*envelope.Verified
		bad   int // index of the first part that is refused, or how many there are
		done  bool
	}{
		"whole":                 {[]*envelope.Verified{n(1), n(2), last(3)}, 3, true},
		"one part":              {[]*envelope.Verified{last(1)}, 1, true},
		"truncated":             {[]*envelope.Verified{n(1), n(2)}, 2, false},
		"reordered":             {[]*envelope.Verified{n(2), n(1)}, 0, false},
		"dropped":               {[]*envelope.Verified{n(1), n(3)}, 1, false},
		"dropped before last":   {[]*envelope.Verified{n(1), last(3)}, 1, false},
		"doubled":               {[]*envelope.Verified{n(1), n(1)}, 1, false},
		"after the last":        {[]*envelope.Verified{n(1), last(2), n(3)}, 2, true},
		"two ends":              {[]*envelope.Verified{last(1), last(2)}, 1, true},
		"spliced":               {[]*envelope.Verified{n(1), part(other, asked, envelope.Part{Number: 2})}, 1, false},
		"of another request":    {[]*envelope.Verified{n(1), part(handler, elsewhere, envelope.Part{Number: 2})}, 1, false},
		"a plain reply between": {[]*envelope.Verified{n(1), part(handler, asked, envelope.Part{})}, 1, false},
		"nothing":               {[]*envelope.Verified{nil}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			var s envelope.Stream
			for i, v := range c.parts {
				err := s.Next(v)
				if i < c.bad && err != nil {
					t.Fatalf("part %d: got %v", i, err)
				}
				if i == c.bad {
					wantReason(t, err, denial.BrokenStream)
					break
				}
			}
			if s.Done() != c.done || s.Count() != c.bad {
				t.Errorf("got done %v after %d parts, want %v after %d", s.Done(), s.Count(), c.done, c.bad)
			}
		})
	}
}
