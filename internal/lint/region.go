package lint

import "strings"

// token is one place of a region: the texts that may stand there. All but a
// literal stand for more texts than anybody could list, which is what makes
// meeting a wildcard certain.
type token struct {
	literal string
	open    bool     // not a literal: what follows decides
	begins  string   // what the text begins with
	not     string   // characters that it does not begin with
	but     []string // what it is not
	tail    bool     // one or more of any, at the end
}

func lit(s string) token                { return token{literal: s} }
func anyBut(s ...string) token          { return token{open: true, but: s} }
func begin(p string, b ...string) token { return token{open: true, begins: p, but: b} }

var (
	one  = token{open: true}
	rest = token{tail: true}
)

func (t token) matches(s string) bool {
	if !t.open {
		return t.literal == s
	}
	for _, b := range t.but {
		if s == b {
			return false
		}
	}
	return strings.HasPrefix(s, t.begins) && (t.not == "" || s == "" || !strings.Contains(t.not, s[:1]))
}

// region is a set of subjects, such as "the calls of everybody but alice": a
// pattern whose places may also exclude.
type region []token

// of makes a region of a text in which "*" and ">" have their meaning, then of
// tokens.
func of(text string, more ...token) region {
	var r region
	for _, s := range split(text) {
		switch s {
		case star:
			r = append(r, one)
		case tail:
			r = append(r, rest)
		default:
			r = append(r, lit(s))
		}
	}
	return append(r, more...)
}

// meets reports whether some subject of the region matches the pattern. It is
// exact.
func (r region) meets(pattern []string) bool {
	for i := 0; ; i++ {
		switch {
		case i == len(r) || i == len(pattern):
			return len(r) == len(pattern)
		case r[i].tail || pattern[i] == tail:
			return true
		case pattern[i] != star && !r[i].matches(pattern[i]):
			return false
		}
	}
}

// String spells the region for people: "!a" is any token but a, "$…" one that
// begins with a dollar sign.
func (r region) String() string {
	out := make([]string, 0, len(r))
	for _, t := range r {
		switch {
		case t.tail:
			out = append(out, tail)
		case !t.open:
			out = append(out, t.literal)
		case t.begins != "":
			out = append(out, t.begins+"…")
		case len(t.but) > 0:
			out = append(out, "!"+strings.Join(t.but, "|"))
		default:
			out = append(out, star)
		}
	}
	return strings.Join(out, ".")
}

// at is a region and all that lies below it.
func at(r region) []region { return []region{r, append(r[:len(r):len(r)], rest)} }
