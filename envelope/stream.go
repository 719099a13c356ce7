package envelope

import (
	"crypto/sha256"
	"hash"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// Stream checks the parts of one streamed reply, or of the body of one request, as
// they arrive. Each part is signed with its number and bound to what it answers, so
// all that is left to check is that they are one signer's, that none is missing,
// doubled or out of order, that nothing follows the last, and of a body that it is
// the one that the request promised. A stream that just stops is not Done, and what
// came of it is not the whole. The zero Stream is ready for a reply; [BodyStream]
// makes one for a body. It is not safe for concurrent use.
type Stream struct {
	key    string
	parent string
	count  int
	done   bool
	piece  bool // the part that came last ended one

	body *body // nil: a reply
}

// body is what came of a request's payload.
type body struct {
	want Body
	size int
	hash hash.Hash
}

// BodyStream returns a Stream for the body of a request with these fields: parts
// of the request's own key, which together are its Body and no byte more. A request
// without Body has none, and no part of it passes.
func BodyStream(request Fields) *Stream {
	return &Stream{key: request.Key, body: &body{want: request.Body, hash: sha256.New()}}
}

// Next takes the next part. After a refusal (BrokenStream) the stream stays
// where it was, and the caller gives it up.
func (s *Stream) Next(v *Verified) error {
	f := v.Fields()
	first, isBody := s.count == 0, s.body != nil
	switch {
	case s.done:
		return denial.New(denial.BrokenStream, "part %s after the last", f.Part)
	case f.Part.IsZero():
		return denial.New(denial.BrokenStream, "not a part of a stream")
	case f.Part.Number != s.count+1:
		return denial.New(denial.BrokenStream, "part %s where %d was next", f.Part, s.count+1)
	case !first && f.Parent != s.parent, (!first || isBody) && f.Key != s.key,
		(subject.ClassOf(v.Subject()) == subject.Body) != isBody: // whoever took a body for a reply would not hold it to its promise
		return denial.New(denial.BrokenStream, "part %s is of another stream", f.Part)
	case f.Part.More && len(v.Data()) == 0:
		return denial.New(denial.BrokenStream, "part %s of a piece has no content", f.Part)
	}
	if isBody {
		if err := s.body.take(v.Data(), f.Part); err != nil {
			return err
		}
	}
	s.key, s.parent, s.count, s.done = f.Key, f.Parent, f.Part.Number, f.Part.Last
	s.piece = f.Part.Last || len(v.Data()) > 0 && !f.Part.More
	return nil
}

// take refuses what is more than was promised before anybody keeps it, and a last
// part with which the promise is not kept.
func (b *body) take(data []byte, p Part) error {
	if len(data) > b.want.Size-b.size {
		return denial.New(denial.BrokenStream, "part %s of a body of more than %d bytes", p, b.want.Size)
	}
	b.hash.Write(data)
	b.size += len(data)
	if !p.Last {
		return nil
	}
	if got := (Body{b.size, b64.EncodeToString(b.hash.Sum(nil))}); got != b.want {
		return denial.New(denial.BrokenStream, "a body of %s, where %s was promised", got, b.want)
	}
	return nil
}

// Piece reports whether the part that came last ended a piece of content: the last
// part does, and any other with content that does not go on. A part without payload
// before the last is a sign of life, which neither ends nor breaks a piece.
func (s *Stream) Piece() bool { return s.piece }

// Done reports whether the last part has come.
func (s *Stream) Done() bool { return s.done }

// Count returns how many parts have come.
func (s *Stream) Count() int { return s.count }
