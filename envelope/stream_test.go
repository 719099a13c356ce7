package envelope_test

import (
	"strings"
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

// A piece of content may take several parts. A sign of life between them belongs to
// none, and no part of a piece is empty.
func TestPieces(t *testing.T) {
	caller, handler := agent(t, "writer"), agent(t, "reader")
	_, request := caller.sign(t, caller.fields(), call, nil, "tail", nil)
	asked := caller.fields().Nonce
	for parts, bad := range map[string]int{ // a part and its content, "!" where it ends a piece
		"1:a! 2:b! 3/3:c!":           3,
		"1+:a 2+:b 3:c! 4/4:d!":      4,
		"1+:a 2: 3: 4:b! 5/5:!":      5,
		"1: 2+:a 3/3:!":              3,
		"1+:a 2/2:b!":                2,
		"1/1:!":                      1,
		"1+: 2/2:b!":                 0,
		"1+:a 2+: 3/3:b!":            1,
		"1: 2: 3:a! 4: 5+:b 6: 7:c!": 7,
	} {
		t.Run(parts, func(t *testing.T) {
			var s envelope.Stream
			for i, text := range strings.Fields(parts) {
				place, content, _ := strings.Cut(text, ":")
				content, piece := strings.CutSuffix(content, "!")
				f := handler.fields()
				f.Nonce, f.Parent = envelope.NewNonce(), asked
				f.Part = envelope.Part{Number: i + 1, Last: strings.Contains(place, "/"), More: strings.HasSuffix(place, "+")}
				if f.Part.String() != place {
					t.Fatalf("got %s, want %s", f.Part, place)
				}
				m, _ := handler.sign(t, f, replyTo(caller, asked), nil, content, &request)
				before := s
				err := s.Next(handler.mustVerify(t, m, &request))
				if i == bad {
					wantReason(t, err, denial.BrokenStream)
					if s != before {
						t.Errorf("a refused part moved the stream")
					}
					return
				}
				if err != nil || s.Piece() != piece {
					t.Fatalf("part %s: got %v, and a piece: %v, want %v", text, err, s.Piece(), piece)
				}
			}
		})
	}
}

// A body is what the request promised, from the key that promised it.
func TestBodyStream(t *testing.T) {
	caller, handler, other := agent(t, "writer"), agent(t, "reader"), agent(t, "mallory")
	promise := func(a identity, b envelope.Body) envelope.Fields {
		f := a.fields()
		f.Body = b
		m, _ := a.sign(t, f, "mesh.call."+a.id.String()+".read.logs", nil, "", nil)
		return a.mustVerify(t, m, nil).Fields()
	}
	invitation := envelope.NewNonce()
	digest := envelope.Digest{1}
	part := func(by identity, parent string, n int, last bool, content string) *envelope.Verified {
		f := by.fields()
		f.Nonce, f.Parent, f.Part = envelope.NewNonce(), parent, envelope.Part{Number: n, Last: last}
		m, _ := by.sign(t, f, bodyTo(by, handler, parent), nil, content, &digest)
		return by.mustVerify(t, m, &digest)
	}
	n := func(i int, content string) *envelope.Verified { return part(caller, invitation, i, false, content) }
	last := func(i int, content string) *envelope.Verified { return part(caller, invitation, i, true, content) }
	want := promise(caller, envelope.BodyOf([]byte("abcdef")))
	f := caller.fields()
	f.Parent, f.Part = invitation, envelope.Part{Number: 1, Last: true}
	m, _ := caller.sign(t, f, replyTo(handler, invitation), nil, "abcdef", &digest)
	answer := caller.mustVerify(t, m, &digest)
	var reply envelope.Stream
	wantReason(t, reply.Next(last(1, "abcdef")), denial.BrokenStream) // a body is no answer
	short := want
	short.Body.Size = 5
	nothing := want
	nothing.Body = envelope.Body{}
	for name, c := range map[string]struct {
		request envelope.Fields
		parts   []*envelope.Verified
		bad     int
		done    bool
	}{
		"whole":                     {want, []*envelope.Verified{n(1, "abc"), n(2, "de"), last(3, "f")}, 3, true},
		"in one part":               {want, []*envelope.Verified{last(1, "abcdef")}, 1, true},
		"with signs of life":        {want, []*envelope.Verified{n(1, ""), n(2, "abcdef"), n(3, ""), last(4, "")}, 4, true},
		"truncated":                 {want, []*envelope.Verified{n(1, "abc"), n(2, "def")}, 2, false},
		"ends early":                {want, []*envelope.Verified{n(1, "abc"), last(2, "de")}, 1, false},
		"longer in the last":        {want, []*envelope.Verified{n(1, "abc"), last(2, "defg")}, 1, false},
		"longer before the last":    {want, []*envelope.Verified{n(1, "abc"), n(2, "defg")}, 1, false},
		"more after all of it":      {want, []*envelope.Verified{n(1, "abcdef"), n(2, "g")}, 1, false},
		"other content":             {want, []*envelope.Verified{n(1, "abc"), last(2, "dex")}, 1, false},
		"content exchanged":         {want, []*envelope.Verified{n(1, "def"), last(2, "abc")}, 1, false},
		"promised shorter":          {short, []*envelope.Verified{n(1, "abc"), last(2, "de")}, 1, false},
		"numbers exchanged":         {want, []*envelope.Verified{n(2, "def"), n(1, "abc")}, 0, false},
		"another's from the start":  {want, []*envelope.Verified{part(other, invitation, 1, true, "abcdef")}, 0, false},
		"another's in the middle":   {want, []*envelope.Verified{n(1, "abc"), part(other, invitation, 2, true, "def")}, 1, false},
		"of another invitation":     {want, []*envelope.Verified{n(1, "abc"), part(caller, envelope.NewNonce(), 2, true, "def")}, 1, false},
		"doubled":                   {want, []*envelope.Verified{n(1, "abc"), n(1, "abc")}, 1, false},
		"after the last":            {want, []*envelope.Verified{last(1, "abcdef"), last(2, "")}, 1, true},
		"nothing promised":          {nothing, []*envelope.Verified{n(1, "a")}, 0, false},
		"nothing promised nor sent": {nothing, []*envelope.Verified{last(1, "")}, 0, false},
		"promised by another":       {promise(other, want.Body), []*envelope.Verified{last(1, "abcdef")}, 0, false},
		"no request":                {envelope.Fields{}, []*envelope.Verified{last(1, "")}, 0, false},
		"nothing":                   {want, []*envelope.Verified{nil}, 0, false},
		"an answer":                 {want, []*envelope.Verified{answer}, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := envelope.BodyStream(c.request)
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

// FuzzBodyStream: however a payload is cut, its parts make it up; and a body of
// which a byte is other, more or missing never ends.
func FuzzBodyStream(f *testing.F) {
	caller, handler := agent(f, "writer"), agent(f, "reader")
	digest := envelope.Digest{1}
	f.Add([]byte("abcdef"), []byte("abcdef"), uint8(3))
	f.Add([]byte("abcdef"), []byte("abcdex"), uint8(1))
	f.Add([]byte("abcdef"), []byte("abcde"), uint8(0))
	f.Add([]byte("abcdef"), []byte("abcdefg"), uint8(7))
	f.Add([]byte(nil), []byte(nil), uint8(1))
	f.Fuzz(func(t *testing.T, promised, sent []byte, cut uint8) {
		request := caller.fields()
		request.Key, request.Body = caller.key.PublicKey(), envelope.BodyOf(promised)
		s, rest := envelope.BodyStream(request), sent
		for n := 1; !s.Done() && n < 100; n++ {
			size := min(int(cut), len(rest))
			if n == 99 {
				size = len(rest)
			}
			p := caller.fields()
			p.Parent, p.Part = p.Nonce, envelope.Part{Number: n, Last: size == len(rest)}
			m, _ := caller.sign(t, p, bodyTo(caller, handler, p.Parent), nil, string(rest[:size]), &digest)
			if err := s.Next(caller.mustVerify(t, m, &digest)); err != nil {
				wantReason(t, err, denial.BrokenStream)
				break
			}
			rest = rest[size:]
		}
		if want := string(sent) == string(promised); s.Done() != want {
			t.Errorf("%q for %q in parts of %d: done is %v", sent, promised, cut, s.Done())
		}
	})
}
