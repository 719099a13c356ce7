package layering_test

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/test/layering"
)

// listed is what go list says about a package.
type listed struct {
	ImportPath, Dir, Name                        string
	Standard, Incomplete                         bool
	Imports, Deps                                []string
	GoFiles, TestGoFiles, XTestGoFiles, CgoFiles []string
}

func (l listed) relative() string {
	return strings.TrimPrefix(strings.TrimPrefix(l.ImportPath, layering.Module), "/")
}

// module lists the packages of the module that exist.
func module(t *testing.T) []listed {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	watchTree(t, root)
	// -e: what does not compile is for the compiler to complain about.
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Dir,Name,Standard,Imports,Deps,GoFiles,TestGoFiles,XTestGoFiles,CgoFiles", "./...")
	cmd.Dir = root
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var out []listed
	for dec := json.NewDecoder(bytes.NewReader(text)); ; {
		var l listed
		if err := dec.Decode(&l); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		out = append(out, l)
	}
	// A listing that came out empty would make every test here pass.
	for _, must := range []string{"agentid", "denial", "internal/subject", "test/layering"} {
		if !slices.ContainsFunc(out, func(l listed) bool { return l.relative() == must }) {
			t.Fatalf("go list names %d packages and not %s", len(out), must)
		}
	}
	return out
}

// watchTree reads every folder, so that go test, which does not see what go list
// reads, gives no cached answer after a file changed somewhere.
func watchTree(t *testing.T, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() || path == root {
			return err
		}
		if n := d.Name(); strings.HasPrefix(n, ".") || strings.HasPrefix(n, "_") || n == "testdata" {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestImports(t *testing.T) {
	var pkgs []layering.Package
	for _, l := range module(t) {
		if len(l.GoFiles)+len(l.CgoFiles) == 0 {
			continue // tests only: nothing that is linked
		}
		pkgs = append(pkgs, layering.Package{Path: l.relative(), Imports: relative(l.Imports), Deps: relative(l.Deps)})
	}
	for _, breach := range layering.Check(pkgs) {
		t.Error(breach)
	}
}

func relative(paths []string) []string {
	out := make([]string, len(paths))
	for i, p := range paths {
		out[i] = strings.TrimPrefix(p, layering.Module+"/")
	}
	return out
}

// The rules must be able to fail: each forbidden import, made up, is found, and
// what the architecture allows is not.
func TestRulesFire(t *testing.T) {
	const (
		client  = "github.com/nats-io/nats.go"
		server  = "github.com/nats-io/nats-server/v2/server"
		zerolog = "github.com/rs/zerolog"
	)
	for _, tt := range []struct {
		from, imp string
		want      bool // refused
	}{
		{"meshclient", "github.com/hashicorp/vault/api", true},
		{"pki", "github.com/hashicorp/vault/api", true},
		{"pki/vault", "github.com/hashicorp/vault/api/auth/approle", false},
		{"pki/vault", "pki", false},
		{"pki", "pki/vault", true},
		{"agentid", "github.com/x/y", true},
		{"agentid", "denial", true},
		{"agentid", "crypto/sha256", false},
		{"denial", "agentid", true},
		{"internal/limits", "denial", true},
		{"internal/subject", "agentid", false},
		{"internal/subject", "denial", false},
		{"internal/subject", "internal/jws", true},
		{"internal/jws", "github.com/nats-io/nkeys", false},
		{"internal/jws", "github.com/nats-io/jwt/v2", true},
		{"internal/jws", client, true},
		{"internal/jws", "capability", true},
		{"internal/jws", "internal/limits", false},
		{"pki", client, true},
		{"pki", "capability", true},
		{"pki/vault", "pki", false},
		{"pki/vault", "envelope", true},
		{"capability", "envelope", true},
		{"capability", zerolog, true},
		{"capability", client + "/jetstream", true},
		{"capability", "github.com/nats-io/nkeys", false},
		{"envelope", "capability", true},
		{"envelope", client, true},
		{"registry", "heartbeat", true},
		{"registry", "authcallout", true},
		{"registry", "meshclient", true},
		{"registry", "capability", false},
		{"registry", client + "/jetstream", false},
		{"registry", server, true},
		{"audit", "registry", true},
		{"heartbeat", "registry", true},
		{"heartbeat", "authcallout", true},
		{"heartbeat", client, true},
		{"heartbeat", "envelope", false},
		{"heartbeat", zerolog, false},
		{"authcallout", "registry", true},
		{"authcallout", "heartbeat", true},
		{"authcallout", server, true},
		{"authcallout", client, false},
		{"internal/gate", "registry", false},
		{"internal/gate", "meshclient", true},
		{"internal/gate", "internal/controlplane", true},
		{"internal/gate", "internal/natsconf", true},
		{"meshclient", "internal/gate", false},
		{"meshclient", "registry", false},
		{"meshclient", "authcallout", true},
		{"meshclient", "internal/controlplane", true},
		{"meshclient", server, true},
		{"meshclient/inner", server, true},
		{"meshclient/meshtest", server, false},
		{"meshclient/meshtest", "internal/controlplane", false},
		{"meshclient", "meshclient/meshtest", true},
		{"meshclient", "internal/devmesh", true},
		{"meshclient/meshtest", "internal/devmesh", false},
		{"internal/devmesh", "internal/controlplane", false},
		{"internal/controlplane", "internal/gate", false},
		{"internal/controlplane", "authcallout", false},
		{"internal/controlplane", "meshclient", true},
		{"internal/controlplane", server, true},
		{"internal/controlplane", "cmd/sealmesh", true},
		{"cmd/sealmesh", "internal/controlplane", false},
		{"cmd/sealmesh", server, false},
		{"examples/relay", "meshclient", false},
		{"examples/relay", "internal/limits", true},
		{"test/attack", "internal/gate", false},
		{"registry", "testing", true},
		{"surprise", "fmt", true},
		{"internal/surprise", "fmt", true},
	} {
		got := layering.Check([]layering.Package{
			{Path: tt.from, Imports: []string{tt.imp}, Deps: []string{tt.imp}},
			{Path: tt.imp},
		})
		got = slices.DeleteFunc(got, func(s string) bool { return !strings.HasPrefix(s, tt.from+" ") })
		if (len(got) > 0) != tt.want {
			t.Errorf("%s -> %s: got %q, want refused: %v", tt.from, tt.imp, got, tt.want)
		}
	}
	// Linked through somebody else counts as well.
	through := []layering.Package{{Path: "meshclient", Imports: []string{"github.com/x/y"}, Deps: []string{"github.com/x/y", server}}}
	if got := layering.Check(through); len(got) != 1 || !strings.Contains(got[0], "link a server") {
		t.Errorf("a server linked indirectly: got %q, want one refusal with its reason", got)
	}
}

// One comment says what a package is; two contradict each other sooner or later.
func TestPackageComments(t *testing.T) {
	for _, l := range module(t) {
		files := append(slices.Clone(l.GoFiles), l.CgoFiles...)
		if len(files) == 0 {
			files = append(slices.Clone(l.TestGoFiles), l.XTestGoFiles...)
		}
		var found []string
		for _, name := range files {
			path := filepath.Join(l.Dir, name)
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Errorf("%s: %v", path, err)
				continue
			}
			if file.Doc == nil {
				continue
			}
			found = append(found, name)
			if text := file.Doc.Text(); !opensWell(l, text) {
				first, _, _ := strings.Cut(text, "\n")
				t.Errorf("%s: %s begins %q, want %q", l.relative(), name, first, "Package "+l.Name+" …, or Command … for a program")
			}
		}
		if len(found) != 1 {
			t.Errorf("%s has %d package comments %v, want exactly one", l.relative(), len(found), found)
		}
	}
}

func opensWell(l listed, text string) bool {
	if l.Name == "main" {
		return strings.HasPrefix(text, "Command "+filepath.Base(l.Dir)+" ")
	}
	return strings.HasPrefix(text, "Package "+strings.TrimSuffix(l.Name, "_test")+" ")
}

// Time is handed in below tier 3: a verifier that looks at the clock itself
// cannot be tested at the edge of a window, and one that looks twice can be made
// to disagree with itself.
func TestNobodyBelowLooksAtTheClock(t *testing.T) {
	looked := 0
	for _, l := range module(t) {
		if !layering.Clockless(l.relative()) {
			continue
		}
		for _, name := range l.GoFiles {
			src, err := os.ReadFile(filepath.Join(l.Dir, name))
			if err != nil {
				t.Fatal(err)
			}
			looked++
			for _, at := range clockCalls(t, filepath.Join(l.relative(), name), src) {
				t.Errorf("%s: take the time or a clock as an argument", at)
			}
		}
	}
	if looked < 10 {
		t.Errorf("looked at %d files, which cannot be all", looked)
	}
	for src, want := range map[string]int{
		`import "time"; var t = time.Now()`:                                       1,
		`import "time"; var d = time.Since(time.Time{})`:                          1,
		`import "time"; var d = time.Until(time.Time{})`:                          1,
		`import clock "time"; var t = clock.Now()`:                                1,
		`import "time"; var clock = time.Now`:                                     0,
		`import "time"; var t = time.Unix(0, 0)`:                                  0,
		`type x struct{}; func (x) Now() {}; var time x; func f() { time.Now() }`: 0,
	} {
		if got := clockCalls(t, "made up", []byte("package p; "+src)); len(got) != want {
			t.Errorf("%s: found %d calls, want %d", src, len(got), want)
		}
	}
}

// clockCalls returns where src calls the wall clock.
func clockCalls(t *testing.T, name string, src []byte) (at []string) {
	t.Helper()
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, name, src, parser.SkipObjectResolution)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return nil
	}
	clock := ""
	for _, imp := range file.Imports {
		if imp.Path.Value == `"time"` {
			clock = "time"
			if imp.Name != nil {
				clock = imp.Name.Name
			}
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok && clock != "" && x.Name == clock && slices.Contains([]string{"Now", "Since", "Until"}, sel.Sel.Name) {
			at = append(at, set.Position(call.Pos()).String())
		}
		return true
	})
	return at
}
