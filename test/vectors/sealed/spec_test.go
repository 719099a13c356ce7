package sealed_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/denial"
)

var (
	heading = regexp.MustCompile(`^## (.+)$`)
	ruled   = regexp.MustCompile(`^- \*\*([A-Z]\d+)\.\*\*`)
	named   = regexp.MustCompile("`[a-z/]+\\.(?:Test|Fuzz)[A-Za-z]+`")
)

// spec reads the rules of docs/spec/sealed.md with the section in which each
// stands, and those for which section 10 names tests.
func spec(t *testing.T) (lines []string, rules map[string]string, shown map[string]bool) {
	t.Helper()
	page, err := os.ReadFile(filepath.FromSlash("../../../docs/spec/sealed.md"))
	if err != nil {
		t.Fatal(err)
	}
	rules, shown = map[string]string{}, map[string]bool{}
	section := ""
	for line := range strings.SplitSeq(string(page), "\n") {
		lines = append(lines, line)
		if m := heading.FindStringSubmatch(line); m != nil {
			section = m[1]
		}
		if m := ruled.FindStringSubmatch(line); m != nil {
			if rules[m[1]] != "" {
				t.Errorf("the specification has two rules %s", m[1])
			}
			rules[m[1]] = section
		}
		if cells := strings.Split(line, "|"); strings.HasSuffix(section, "Evidence") && len(cells) == 4 && named.MatchString(cells[2]) {
			for id := range strings.SplitSeq(cells[1], ",") {
				shown[strings.TrimSpace(id)] = true
			}
		}
	}
	if len(rules) < 20 {
		t.Fatalf("found %d rules in the specification", len(rules))
	}
	return lines, rules, shown
}

// TestEveryRuleHasItsVectors: each rule of the specification is broken by a
// vector, or names the test that shows it, and no vector names a rule or a section
// that there is not.
func TestEveryRuleHasItsVectors(t *testing.T) {
	_, rules, shown := spec(t)
	broken := map[string]bool{}
	for _, v := range load(t) {
		switch section, ok := rules[v.Rule]; {
		case !ok:
			t.Errorf("%s: the specification has no rule %q", v.Name, v.Rule)
		case v.Section != section:
			t.Errorf("%s: rule %s stands in section %q, not in %q", v.Name, v.Rule, section, v.Section)
		case v.Description == "":
			t.Errorf("%s: no description", v.Name)
		case v.Refuse != "" && v.Refuse != denial.CannotOpen:
			t.Errorf("%s: there is one code, and this is %q", v.Name, v.Refuse)
		}
		broken[v.Rule] = broken[v.Rule] || v.Refuse != ""
	}
	for id, section := range rules {
		if !broken[id] && !shown[id] {
			t.Errorf("rule %s has neither a vector nor a test", id)
		}
		// What one payload can show has a vector.
		if strings.ContainsAny(section[:1], "245") && id != "W3" && !broken[id] {
			t.Errorf("rule %s has no vector", id)
		}
	}
	for id := range shown {
		if rules[id] == "" && len(id) == 2 {
			t.Errorf("there is evidence for rule %s, which is not there", id)
		}
	}
}

// TestEveryMustIsARule: what the specification demands has a name.
func TestEveryMustIsARule(t *testing.T) {
	lines, rules, _ := spec(t)
	n := 0
	for i, line := range lines {
		if !strings.Contains(line, "MUST") || strings.Contains(line, "BCP 14") {
			continue
		}
		n++
		introduces := strings.HasSuffix(line, ":") && len(lines) > i+2 && ruled.MatchString(lines[i+2])
		if !ruled.MatchString(line) && !introduces {
			t.Errorf("no rule: %s", line)
		}
	}
	if n < 12 || n > 2*len(rules) {
		t.Errorf("found %d demands in the specification", n)
	}
}
