package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// documents are all Markdown files of the project, by their path in it.
func documents(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	walk(t, ".md", func(path, text string) { out[path] = text })
	if len(out) < 5 {
		t.Fatalf("got %d documents, want all of them", len(out))
	}
	return out
}

func walk(t *testing.T, ext string, f func(path, text string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || strings.HasPrefix(d.Name(), "mesh") && filepath.Dir(path) == root && d.Name() != "meshclient") {
			return fs.SkipDir
		}
		if filepath.Ext(path) != ext || d.IsDir() {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		f(filepath.ToSlash(rel), string(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

var fence = regexp.MustCompile("(?ms)^```(\\w*)\n(.*?)^```$")

// blocks are the fenced blocks of one language.
func blocks(text, language string) []string {
	var out []string
	for _, m := range fence.FindAllStringSubmatch(text, -1) {
		if m[1] == language {
			out = append(out, m[2])
		}
	}
	return out
}

// Go code in a README is a piece of an example, to the letter, so that it
// compiles because the example does.
func TestSnippetsStandInExamples(t *testing.T) {
	var sources []string
	walk(t, ".go", func(path, text string) {
		if strings.HasPrefix(path, "examples/") {
			sources = append(sources, text)
		}
	})
	n := 0
	for path, text := range documents(t) {
		if filepath.Base(path) != "README.md" {
			continue
		}
		for _, b := range blocks(text, "go") {
			n++
			if !slices.ContainsFunc(sources, func(s string) bool { return strings.Contains(s, b) }) {
				t.Errorf("%s: no example has this code:\n%s", path, b)
			}
		}
	}
	if n == 0 {
		t.Error("found no Go code in any README")
	}
}

// The ten lines are ten lines, and a main of the quickstart fits on a screen.
func TestTheExampleIsShort(t *testing.T) {
	readme := documents(t)["README.md"]
	if first := blocks(readme, "go"); len(first) == 0 || strings.Count(first[0], "\n") > 10 {
		t.Errorf("got %d lines in the first example, want at most 10", strings.Count(first[0], "\n"))
	}
	for _, name := range []string{"handler", "caller"} {
		text, err := os.ReadFile(filepath.Join(root, "examples", "quickstart", name, "main.go"))
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), "\n"); n > 40 {
			t.Errorf("%s has %d lines, want at most 40", name, n)
		}
		if strings.Contains(string(text), "sealmesh/internal/") {
			t.Errorf("%s imports internal packages, which its readers cannot", name)
		}
	}
}

var (
	link = regexp.MustCompile(`\]\(([^)#\s]+)(#[^)\s]*)?\)`)
	code = regexp.MustCompile("`[^`\n]*`")
)

func TestLinksPointSomewhere(t *testing.T) {
	n := 0
	for path, text := range documents(t) {
		text = code.ReplaceAllString(fence.ReplaceAllString(text, ""), "")
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
				continue
			}
			n++
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(path), filepath.FromSlash(m[1]))); err != nil {
				t.Errorf("%s links to %s, which is not there", path, m[1])
			}
		}
	}
	if n == 0 {
		t.Error("found no link")
	}
}

var (
	cited    = regexp.MustCompile("`((?:[a-z][a-z0-9]*/)*[a-z][a-z0-9]*)\\.((?:Test|Fuzz|Example)[A-Za-z0-9_]*)`")
	declared = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Example)[A-Za-z0-9_]*)\(`)
)

// A document that names a test as evidence names one that exists.
func TestCitedTestsExist(t *testing.T) {
	have := map[string]bool{}
	walk(t, ".go", func(path, text string) {
		if strings.HasSuffix(path, "_test.go") {
			for _, m := range declared.FindAllStringSubmatch(text, -1) {
				have[filepath.ToSlash(filepath.Dir(path))+"."+m[1]] = true
			}
		}
	})
	n := 0
	for path, text := range documents(t) {
		for _, m := range cited.FindAllStringSubmatch(text, -1) {
			n++
			if !have[m[1]+"."+m[2]] {
				t.Errorf("%s names the test %s.%s, which is not there", path, m[1], m[2])
			}
		}
	}
	if n == 0 {
		t.Error("found no test named in any document")
	}
}

var step = regexp.MustCompile("`demo:([a-z-]+)`")

func TestCitedDemoStepsExist(t *testing.T) {
	var source strings.Builder
	walk(t, ".go", func(path, text string) {
		if strings.HasPrefix(path, "internal/demo/") && !strings.HasSuffix(path, "_test.go") {
			source.WriteString(text)
		}
	})
	n := 0
	for path, text := range documents(t) {
		for _, m := range step.FindAllStringSubmatch(text, -1) {
			n++
			if !strings.Contains(source.String(), `"`+m[1]+`"`) {
				t.Errorf("%s names the step %s of the demo, which is not there", path, m[1])
			}
		}
	}
	if n == 0 {
		t.Error("found no step of the demo in any document")
	}
}
