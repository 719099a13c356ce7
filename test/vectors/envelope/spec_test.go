package envelope_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/denial"
)

// rule is one of docs/spec/envelope.md: the section in which it stands and the
// reasons that it gives.
type rule struct {
	section string
	reasons []denial.Reason
	line    string
}

var (
	heading = regexp.MustCompile(`^## (.+)$`)
	lower   = regexp.MustCompile(`^### (.+)$`)
	ruled   = regexp.MustCompile(`^(?:- |\| )\*\*([A-Z]\d+)\.?\*\*`)
	quoted  = regexp.MustCompile("`([a-z-]+)`")
	named   = regexp.MustCompile("`[a-z/]+\\.(?:Test|Fuzz)[A-Za-z]+`")
)

func spec(t *testing.T) (lines []string, rules map[string]rule) {
	t.Helper()
	page, err := os.ReadFile(filepath.FromSlash("../../../docs/spec/envelope.md"))
	if err != nil {
		t.Fatal(err)
	}
	rules = map[string]rule{}
	known, section := reasons(t), ""
	for line := range strings.SplitSeq(string(page), "\n") {
		lines = append(lines, line)
		if m := heading.FindStringSubmatch(line); m != nil {
			section = m[1]
		}
		m := ruled.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		if _, twice := rules[m[1]]; twice {
			t.Errorf("the specification has two rules %s", m[1])
		}
		r := rule{section: section, line: line}
		for _, q := range quoted.FindAllStringSubmatch(line, -1) {
			if known[denial.Reason(q[1])] && !slices.Contains(r.reasons, denial.Reason(q[1])) {
				r.reasons = append(r.reasons, denial.Reason(q[1]))
			}
		}
		if m[1][0] == 'L' { // the table of limits gives its one reason above it
			r.reasons = append(r.reasons, denial.TooLarge)
		}
		rules[m[1]] = r
	}
	if len(rules) < 50 {
		t.Fatalf("found %d rules in the specification", len(rules))
	}
	return lines, rules
}

// reasons are the codes that package denial defines.
func reasons(t *testing.T) map[denial.Reason]bool {
	t.Helper()
	source, err := os.ReadFile(filepath.FromSlash("../../../denial/reasons.go"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[denial.Reason]bool{}
	for _, m := range regexp.MustCompile(`Reason = "([a-z-]+)"`).FindAllStringSubmatch(string(source), -1) {
		out[denial.Reason(m[1])] = true
	}
	if len(out) < 40 {
		t.Fatalf("found %d reasons in package denial", len(out))
	}
	return out
}

// evidence are the tests that section 11 names, by rule.
func evidence(lines []string) map[string]bool {
	out, in := map[string]bool{}, false
	for _, line := range lines {
		if heading.MatchString(line) {
			in = strings.HasSuffix(line, "Evidence")
		}
		cells := strings.Split(line, "|")
		if !in || len(cells) != 4 || !named.MatchString(cells[2]) {
			continue
		}
		for id := range strings.SplitSeq(cells[1], ",") {
			out[strings.TrimSpace(id)] = true
		}
	}
	return out
}

// TestEveryRuleHasItsVectors: each rule of the specification is broken by a
// vector for each reason that it gives, or names the test that shows it, and no
// vector names a rule, a section or a reason that there is not.
func TestEveryRuleHasItsVectors(t *testing.T) {
	lines, rules := spec(t)
	known, shown := reasons(t), evidence(lines)
	seen := map[string]map[denial.Reason]int{}
	for _, v := range load(t) {
		r, ok := rules[v.Rule]
		switch {
		case !ok:
			t.Errorf("%s: the specification has no rule %q", v.Name, v.Rule)
		case v.Section != r.section:
			t.Errorf("%s: rule %s stands in section %q, not in %q", v.Name, v.Rule, r.section, v.Section)
		case v.Description == "":
			t.Errorf("%s: no description", v.Name)
		case v.Refuse != "" && !known[v.Refuse]:
			t.Errorf("%s: package denial has no reason %q", v.Name, v.Refuse)
		case v.Refuse != "" && v.Rule[0] != 'O' && v.Rule[0] != 'C' && !slices.Contains(r.reasons, v.Refuse):
			// O1 gives whatever comes first, and C1 what capability.md gives.
			t.Errorf("%s: rule %s does not give the reason %q", v.Name, v.Rule, v.Refuse)
		}
		if seen[v.Rule] == nil {
			seen[v.Rule] = map[denial.Reason]int{}
		}
		seen[v.Rule][v.Refuse]++
	}
	for id, r := range rules {
		if len(seen[id]) == 0 && !shown[id] {
			t.Errorf("rule %s has neither a vector nor a test", id)
		}
		for _, reason := range r.reasons {
			if seen[id][reason] == 0 && !shown[id] {
				t.Errorf("rule %s has no vector for %q", id, reason)
			}
		}
	}
	for id := range shown {
		if _, ok := rules[id]; !ok && id[0] <= 'Z' {
			t.Errorf("there is evidence for rule %s, which is not there", id)
		}
	}
}

// TestEveryReasonHasAVector: no code that the specification gives goes untried.
func TestEveryReasonHasAVector(t *testing.T) {
	_, rules := spec(t)
	want, have := map[denial.Reason]bool{}, map[denial.Reason]bool{}
	for _, r := range rules {
		for _, reason := range r.reasons {
			want[reason] = true
		}
	}
	for _, v := range load(t) {
		have[v.Refuse] = true
	}
	for reason := range want {
		if !have[reason] {
			t.Errorf("no vector is refused with %q", reason)
		}
	}
	if len(want) < 28 {
		t.Errorf("found %d reasons in the specification", len(want))
	}
}

// TestReadmeCounts: whoever runs the vectors elsewhere knows when some are missing.
func TestReadmeCounts(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("There are %d vectors.", len(load(t))); !strings.Contains(string(readme), want) {
		t.Errorf("README.md does not say %q", want)
	}
}

// TestEveryMustIsShown: what the specification demands is a rule, or names the
// test that shows it.
func TestEveryMustIsShown(t *testing.T) {
	lines, _ := spec(t)
	shown, n, below := evidence(lines), 0, ""
	for i, line := range lines {
		if heading.MatchString(line) {
			below = ""
		}
		if m := lower.FindStringSubmatch(line); m != nil {
			below = strings.ToLower(m[1])
		}
		if !strings.Contains(line, "MUST") || strings.Contains(line, "BCP 14") {
			continue
		}
		n++
		// A sentence that introduces the rules below it.
		if (strings.HasSuffix(line, "MUST refuse") || strings.HasPrefix(line, "A receiver MUST")) && followedByRule(lines[i+1:]) {
			continue
		}
		// What a whole subsection demands may have one row of tests.
		if shown[below] {
			continue
		}
		if !ruled.MatchString(line) && !named.MatchString(line) {
			t.Errorf("neither a rule nor a test: %s", line)
		}
	}
	if n < 30 {
		t.Errorf("found %d demands in the specification", n)
	}
}

// followedByRule reports whether a rule begins within the next lines, before any
// other text but the head of a table.
func followedByRule(lines []string) bool {
	for _, line := range lines[:min(4, len(lines))] {
		if ruled.MatchString(line) {
			return true
		}
		if line != "" && !strings.HasPrefix(line, "|") {
			return false
		}
	}
	return false
}
