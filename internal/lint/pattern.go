package lint

import "strings"

// The wildcards of NATS: one token, and one or more at the end.
const (
	star = "*"
	tail = ">"
)

func split(subject string) []string { return strings.Split(subject, ".") }

// wellFormed reports whether the server takes s for a subject with the tokens
// that it seems to have: none empty, ">" only at the end, nothing in it that
// separates words on the wire.
func wellFormed(s string) bool {
	t := split(s)
	for i, tok := range t {
		if tok == "" || tok == tail && i != len(t)-1 {
			return false
		}
		for j := range len(tok) {
			if tok[j] <= ' ' || tok[j] > '~' {
				return false
			}
		}
	}
	return true
}

// overlap reports whether some subject matches both patterns. It is exact.
func overlap(a, b []string) bool {
	for i := 0; ; i++ {
		switch {
		case i == len(a) || i == len(b):
			return len(a) == len(b)
		case a[i] == tail || b[i] == tail:
			return true // both have a token here, and the other's rest can be had
		case a[i] != b[i] && a[i] != star && b[i] != star:
			return false
		}
	}
}

// covers reports whether every subject that inner matches is matched by outer.
// It is exact.
func covers(outer, inner []string) bool {
	for i := 0; ; i++ {
		switch {
		case i == len(outer) || i == len(inner):
			return len(outer) == len(inner)
		case outer[i] == tail:
			return true
		case inner[i] == tail, outer[i] != star && outer[i] != inner[i]:
			return false
		}
	}
}

// literally reports whether the server finds subject, whatever is in it, under a
// pattern: a wildcard in the subject is a token like any other to it.
func literally(pattern, subject []string) bool {
	for i := 0; ; i++ {
		switch {
		case i == len(pattern) || i == len(subject):
			return len(pattern) == len(subject)
		case pattern[i] == tail:
			return true
		case pattern[i] != star && pattern[i] != subject[i]:
			return false
		}
	}
}

// heard is all that can be received under a permission to subscribe pattern. The
// server takes the ">" of a subscription for one more token that "*" stands for,
// so that a permission that ends in "*" reaches as deep as one that ends in ">".
func heard(pattern []string) []string {
	if n := len(pattern); n > 0 && pattern[n-1] == star {
		return append(pattern[:n-1:n-1], tail)
	}
	return pattern
}
