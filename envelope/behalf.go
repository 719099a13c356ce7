package envelope

import (
	"iter"
	"slices"
	"strings"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// behalfSeparator joins the digests of OnBehalf.
const behalfSeparator = "."

// Principals returns the digests in OnBehalf, the first caller's first. Each names
// a chain that limits the message.
func (f *Fields) Principals() iter.Seq[string] {
	return func(yield func(string) bool) {
		for rest := f.OnBehalf; rest != ""; {
			var digest string
			digest, rest, _ = strings.Cut(rest, behalfSeparator)
			if !yield(digest) {
				return
			}
		}
	}
}

// Behalf returns the OnBehalf of a call that is made on behalf of the sender of a
// request with these fields, and of everybody on whose behalf that was made. It
// refuses a request without a chain, which would limit nothing, and what came
// through more hands than can be named (Loop).
func (f *Fields) Behalf() (string, error) {
	if f.Token == "" {
		return "", denial.New(denial.NoToken, "a request without a capability chain limits nothing")
	}
	list := slices.Collect(f.Principals())
	if !slices.Contains(list, f.Token) {
		list = append(list, f.Token)
	}
	if len(list) > limits.Behalf {
		return "", denial.New(denial.Loop, "on behalf of more than %d", limits.Behalf)
	}
	return strings.Join(list, behalfSeparator), nil
}

// isBehalf reports whether s, not empty, is digests, each once and not too many.
func isBehalf(s string) bool {
	var seen [limits.Behalf][32]byte
	for n := 0; ; n++ {
		digest, rest, more := strings.Cut(s, behalfSeparator)
		if n == limits.Behalf || !decodeExact(seen[n][:], digest) || slices.Contains(seen[:n], seen[n]) {
			return false
		}
		if !more {
			return true
		}
		s = rest
	}
}
