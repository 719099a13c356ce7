package gate

import (
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// part checks the place of a reply in its stream. Where no stream is expected a
// part must be the only one: the beginning of an answer is not the answer.
func (w Want) part(v *envelope.Verified) error {
	if w.Class != subject.Reply && w.Class != subject.Body {
		return nil
	}
	if w.Stream != nil {
		return w.Stream.Next(v)
	}
	if p := v.Fields().Part; !p.IsZero() && p != (envelope.Part{Number: 1, Last: true}) {
		return denial.New(denial.BrokenStream, "part %s, where a whole reply is expected", p)
	}
	return nil
}
