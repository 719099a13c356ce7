package authcallout_test

import (
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/authcallout"
)

// subjectsOf returns all subjects of one to most tokens out of an alphabet.
func subjectsOf(alphabet []string, most int) []string {
	var out []string
	level := []string{""}
	for range most {
		var next []string
		for _, s := range level {
			for _, t := range alphabet {
				next = append(next, strings.TrimPrefix(s+"."+t, "."))
			}
		}
		out = append(out, next...)
		level = next
	}
	return out
}

// matches asks of one literal subject whether the server would deliver it to a
// subscription, token by token from the end of either.
func matches(pattern, literal string) bool {
	p, rest, more := strings.Cut(pattern, ".")
	l, tail, longer := strings.Cut(literal, ".")
	switch {
	case p == ">" && !more:
		return true
	case p != "*" && p != l:
		return false
	case !more && !longer:
		return true
	}
	return more && longer && matches(rest, tail)
}

// included reports whether every literal subject that the one matches, the other
// matches too. The alphabet has a word that stands in neither, and the subjects
// are a token longer than both, so that what holds for these holds for all.
func included(pattern, subj string, literals []string) bool {
	for _, l := range literals {
		if matches(subj, l) && !matches(pattern, l) {
			return false
		}
	}
	return true
}

// lets is the slow answer to what nats-server lets be subscribed: what is included,
// and by one quirk of its own a tail where the last token may be any, since it
// takes the tail that is asked for to be a word.
func lets(pattern, subj string, literals []string) bool {
	if included(pattern, subj, literals) {
		return true
	}
	p, any := strings.CutSuffix("."+pattern, ".*")
	s, tail := strings.CutSuffix("."+subj, ".>")
	if !any || !tail || strings.Count(p, ".") != strings.Count(s, ".") {
		return false
	}
	return p == "" || included(p[1:], s[1:], literals)
}

func allows(pattern, subj string) bool {
	_, ok := authcallout.Grant{Subscribe: []authcallout.Line{{Subject: pattern}}}.Allows(subj, false)
	return ok
}

// A line covers a subscription exactly if the server lets it through; all patterns of three tokens are compared with each
// other. (Attack 27: overlap that is not inclusion.)
func TestCoversAgainstEnumeration(t *testing.T) {
	literals := subjectsOf([]string{"a", "b", "c"}, 4)
	var patterns []string
	for _, p := range subjectsOf([]string{"a", "b", "*", ">"}, 3) {
		if i := strings.Index(p, ">"); i < 0 || i == len(p)-1 {
			patterns = append(patterns, p)
		}
	}
	yes := 0
	for _, pattern := range patterns {
		for _, subj := range patterns {
			want := lets(pattern, subj, literals)
			if want {
				yes++
			}
			if got := allows(pattern, subj); got != want {
				t.Errorf("%q covers %q: got %v, want %v", pattern, subj, got, want)
			}
		}
	}
	if yes < 200 || yes > len(patterns)*len(patterns)/2 {
		t.Errorf("%d of %d pairs are inclusions, which compares little", yes, len(patterns)*len(patterns))
	}
}

// FuzzCovers is the same for longer patterns and any words.
func FuzzCovers(f *testing.F) {
	for _, p := range [][2]string{
		{"a.*", "a.>"}, {"a.>", "a.*"}, {">", ">"}, {"*", ">"}, {">", "*"}, {"a.*.c", "a.>"}, {"a.>", "a"}, {"a", "a"}, {"*.b", "a.*"},
		{"a.*.>", "a.b.c.d"}, {"mesh.call.*.read.logs", "mesh.call.>"}, {"a.b", "a.b.c"}, {"a.b.c", "a.b"}, {"", "a"}, {"a", ""}, {"a..b", "a..b"}, {"a.>.b", "a.>.b"}, {"*.*.*.*", "a.*.b.*"},
	} {
		f.Add(p[0], p[1])
	}
	f.Fuzz(func(t *testing.T, pattern, subj string) {
		// The words that stand in either, and one that does not.
		words, known := []string{"\x00"}, map[string]bool{"*": true, ">": true}
		for _, s := range []string{pattern, subj} {
			tokens := strings.Split(s, ".")
			for i, w := range tokens {
				if w == "" || strings.ContainsAny(w, " \x00") || w == ">" && i != len(tokens)-1 {
					return // not what a server takes: TestAllows
				}
				if !known[w] {
					words, known[w] = append(words, w), true
				}
			}
		}
		most := max(strings.Count(pattern, "."), strings.Count(subj, ".")) + 2
		if total(len(words), most) > 20000 {
			return
		}
		want := lets(pattern, subj, subjectsOf(words, most))
		if got := allows(pattern, subj); got != want {
			t.Fatalf("%q covers %q: got %v, want %v", pattern, subj, got, want)
		}
	})
}

// total is how many subjects of one to most tokens there are.
func total(words, most int) int {
	sum, level := 0, 1
	for range most {
		level *= words
		if sum += level; sum > 1<<20 {
			break
		}
	}
	return sum
}
