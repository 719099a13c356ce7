package lint

// Overlap, Covers, Literally and Heard are the algebra of patterns.
var (
	Overlap   = overlap
	Covers    = covers
	Literally = literally
	Heard     = heard
)

// Region is a region for tests: "!a" is any token but a, "a~" one that begins
// with a, "-a" one that does not.
type Region struct{ r region }

func RegionOf(tokens []string) Region {
	var r region
	for _, t := range tokens {
		switch {
		case t == star:
			r = append(r, one)
		case t == tail:
			r = append(r, rest)
		case t[0] == '!':
			r = append(r, anyBut(t[1:]))
		case t[0] == '-':
			r = append(r, token{open: true, not: t[1:]})
		case t[len(t)-1] == '~':
			r = append(r, begin(t[:len(t)-1]))
		default:
			r = append(r, lit(t))
		}
	}
	return Region{r}
}

func (r Region) Meets(pattern []string) bool { return r.r.meets(pattern) }

// Has reports whether a literal subject lies in the region, token by token.
func (r Region) Has(subject []string) bool {
	for i, t := range r.r {
		switch {
		case t.tail:
			return i < len(subject)
		case i >= len(subject) || !t.matches(subject[i]):
			return false
		}
	}
	return len(r.r) == len(subject)
}
