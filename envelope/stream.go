package envelope

import "github.com/sealmesh/sealmesh/denial"

// Stream checks the parts of one streamed reply as they arrive. Each part is
// signed with its number and bound to the request, so all that is left to check
// is that they are one signer's, that none is missing, doubled or out of order,
// and that nothing follows the last. A stream that just stops is not Done, and
// what came of it is not the reply. The zero Stream is ready; it is not safe for
// concurrent use.
type Stream struct {
	key    string
	parent string
	count  int
	done   bool
}

// Next takes the next part. After a refusal (BrokenStream) the stream stays
// where it was, and the caller gives it up.
func (s *Stream) Next(v *Verified) error {
	f := v.Fields()
	switch {
	case s.done:
		return denial.New(denial.BrokenStream, "part %s after the last", f.Part)
	case f.Part.IsZero():
		return denial.New(denial.BrokenStream, "not a part of a stream")
	case f.Part.Number != s.count+1:
		return denial.New(denial.BrokenStream, "part %s where %d was next", f.Part, s.count+1)
	case s.count > 0 && (f.Key != s.key || f.Parent != s.parent):
		return denial.New(denial.BrokenStream, "part %s is of another stream", f.Part)
	}
	s.key, s.parent, s.count, s.done = f.Key, f.Parent, f.Part.Number, f.Part.Last
	return nil
}

// Done reports whether the last part has come.
func (s *Stream) Done() bool { return s.done }

// Count returns how many parts have come.
func (s *Stream) Count() int { return s.count }
