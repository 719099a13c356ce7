package lint_test

import (
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/internal/lint"
)

// alphabet has more than one token for whatever a pattern of these tests may say
// of one: for each letter, some that begin with it and others that do not.
var alphabet = []string{"a", "aa", "b", "ba", "$", "$a", "_", "_a"}

// subjects are all of one to four tokens, which is one more than the longest
// pattern of these tests can tell apart.
var subjects = func() [][]string {
	var out [][]string
	short := [][]string{nil}
	for range 4 {
		var next [][]string
		for _, s := range short {
			for _, t := range alphabet {
				next = append(next, append(s[:len(s):len(s)], t))
			}
		}
		out = append(out, next...)
		short = next
	}
	return out
}()

// pattern makes a pattern of at most three places out of a fuzzer's text.
func pattern(text string, places []string) []string {
	var out []string
	for i := 0; i < len(text) && i < 3; i++ {
		p := places[int(text[i])%len(places)]
		out = append(out, p)
		if p == ">" {
			break
		}
	}
	return out
}

var places = []string{"a", "aa", "b", "$", "_a", "*", "*", ">"}

// matches is what NATS means by a pattern, for literal subjects.
func matches(pattern, subject []string) bool {
	for i, p := range pattern {
		if p == ">" {
			return len(subject) > i
		}
		if i >= len(subject) || p != "*" && p != subject[i] {
			return false
		}
	}
	return len(pattern) == len(subject)
}

// FuzzPatterns: what the algebra says of two patterns is what all subjects say.
func FuzzPatterns(f *testing.F) {
	for _, s := range [][2]string{{"\x00", "\x05"}, {"\x07", "\x00\x01\x02"}, {"\x05\x07", "\x00\x05\x00"}, {"\x00\x05", "\x00\x07"}, {"\x05\x05\x05", "\x05\x05\x07"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, x, y string) {
		a, b := pattern(x, places), pattern(y, places)
		if len(a) == 0 || len(b) == 0 {
			return
		}
		both, within := false, true
		for _, s := range subjects {
			inA, inB := matches(a, s), matches(b, s)
			both = both || inA && inB
			within = within && (inA || !inB)
		}
		if got := lint.Overlap(a, b); got != both {
			t.Errorf("overlap(%q, %q): got %v, want %v", a, b, got, both)
		}
		if got := lint.Overlap(b, a); got != both {
			t.Errorf("overlap(%q, %q): got %v, want %v", b, a, got, both)
		}
		if got := lint.Covers(a, b); got != within {
			t.Errorf("covers(%q, %q): got %v, want %v", a, b, got, within)
		}
		// All that subscriptions get which the server permits under a pattern.
		reach := lint.Heard(a)
		for _, s := range subjects {
			if lint.Literally(a, s) != matches(a, s) {
				t.Errorf("literally(%q, %q): got %v", a, s, !matches(a, s))
			}
			if matches(b, s) && lint.Literally(a, b) && !matches(reach, s) {
				t.Errorf("a permission for %q lets %q be subscribed, which gets %q: heard says %q", a, b, s, reach)
			}
		}
	})
}

// FuzzRegions: a region meets a pattern exactly if a subject is in both.
func FuzzRegions(f *testing.F) {
	of := append([]string{"!a", "!$a", "a~", "$~", "-$_", "-ab"}, places...)
	for i := range of {
		f.Add(string([]byte{byte(i), byte(i + 1)}), "\x05\x05")
		f.Add(string([]byte{byte(i)}), "\x00")
		f.Add(string([]byte{byte(i), byte(i)}), "\x03\x07")
	}
	f.Fuzz(func(t *testing.T, x, y string) {
		where, p := pattern(x, of), pattern(y, places)
		if len(where) == 0 || len(p) == 0 {
			return
		}
		r := lint.RegionOf(where)
		want := false
		for _, s := range subjects {
			want = want || r.Has(s) && matches(p, s)
		}
		if got := r.Meets(p); got != want {
			t.Errorf("%q meets %q: got %v, want %v", strings.Join(where, "."), strings.Join(p, "."), got, want)
		}
	})
}
