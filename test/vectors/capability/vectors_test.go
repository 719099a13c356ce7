package capability_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/registry"
)

const (
	schema      = "sealmesh.capability-vector/v1"
	trustSchema = "sealmesh.trust-vector/v1"
)

// about is what every file says of itself, and keys what its reader knows.
type about struct {
	Schema      string        `json:"schema"`
	Name        string        `json:"name"`
	Section     string        `json:"section"`
	Rule        string        `json:"rule"`
	Description string        `json:"description"`
	Refuse      denial.Reason `json:"refuse"`
}

type keys struct {
	Roots        []string `json:"roots"`
	Certificates []string `json:"certificates"`
	Lists        []string `json:"lists"`
}

// vector is a file about a chain.
type vector struct {
	about
	keys
	Chain     string          `json:"chain"`
	Now       int64           `json:"now"`
	Presenter string          `json:"presenter"`
	Directory *directoryState `json:"directory"`
	Accept    *accepted       `json:"accept"`
}

type accepted struct {
	Holder      string   `json:"holder"`
	Scopes      []string `json:"scopes"`
	Delegatable []string `json:"delegatable"`
	Depth       int      `json:"depth"`
	NotBefore   int64    `json:"not_before"`
	Expires     int64    `json:"expires"`
	Digest      string   `json:"digest"`
	Tokens      []string `json:"tokens"`
}

type directoryState struct {
	At     int64 `json:"at"`
	Agents []struct {
		Agent  string          `json:"agent"`
		Status registry.Status `json:"status"`
		Live   []string        `json:"live"`
		Voided []string        `json:"voided"`
	} `json:"agents"`
	Instances []struct {
		Agent string         `json:"agent"`
		NKey  string         `json:"nkey"`
		State registry.State `json:"state"`
	} `json:"instances"`
	Unreadable []string `json:"unreadable"`
}

// decode reads one file into v. A member that nobody reads would be a test that
// nobody runs.
func decode(text []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("something follows the vector")
	}
	return nil
}

var loaded struct {
	sync.Mutex
	chains []*vector
	trusts []*trustVector
}

// load returns all vectors of chains.
func load(t testing.TB) []*vector {
	t.Helper()
	chains, _ := loadAll(t)
	return chains
}

// loadAll returns all vectors, at least as many as there were ever meant to be.
func loadAll(t testing.TB) ([]*vector, []*trustVector) {
	t.Helper()
	loaded.Lock()
	defer loaded.Unlock()
	if loaded.chains != nil {
		return loaded.chains, loaded.trusts
	}
	var chains []*vector
	var trusts []*trustVector
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".json" {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name := strings.TrimSuffix(filepath.ToSlash(path), ".json")
		var of *about
		if strings.HasPrefix(name, "trust/") {
			v := new(trustVector)
			err, of, trusts = decode(text, v), &v.about, append(trusts, v)
		} else {
			v := new(vector)
			err, of, chains = decode(text, v), &v.about, append(chains, v)
		}
		if err != nil || of.Name != name {
			t.Errorf("%s: its name is %q, %v", path, of.Name, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(chains) < 600 || len(trusts) < 70 {
		t.Fatalf("found %d vectors of chains and %d of trust documents, where there were 600 and 70, and more", len(chains), len(trusts))
	}
	if !t.Failed() {
		loaded.chains, loaded.trusts = chains, trusts
	}
	return chains, trusts
}

// standing answers as the registry's records do.
type standing struct {
	agents    map[agentid.ID]*registry.Agent
	instances map[string]*registry.Instance
	away      []string
}

func (d *directoryState) directory() standing {
	s := standing{map[agentid.ID]*registry.Agent{}, map[string]*registry.Instance{}, d.Unreadable}
	for _, a := range d.Agents {
		r := &registry.Agent{Agent: agentid.Require(a.Agent), Status: a.Status, Tokens: a.Live}
		for _, token := range a.Voided {
			r.Voided = append(r.Voided, registry.Void{Token: token})
		}
		s.agents[r.Agent] = r
	}
	for _, i := range d.Instances {
		s.instances[i.NKey] = &registry.Instance{Agent: agentid.Require(i.Agent), State: i.State}
	}
	return s
}

func (s standing) agent(id agentid.ID) (*registry.Agent, error) {
	if slices.Contains(s.away, id.String()) {
		return nil, denial.New(denial.RegistryUnavailable, "the vector says so")
	}
	if s.agents[id] == nil {
		return nil, denial.New(denial.UnlistedAgent, "%q is not in the vector", id)
	}
	return s.agents[id], nil
}

func (s standing) Standing(id agentid.ID) error {
	a, err := s.agent(id)
	if err != nil {
		return err
	}
	return a.Status.Standing()
}

func (s standing) SignerStanding(id agentid.ID, key string) error {
	a, err := s.agent(id)
	if err != nil {
		return err
	}
	i := s.instances[key]
	switch {
	case i == nil || i.Agent != id:
		return denial.New(denial.UnlistedKey, "no instance of %q", id)
	case i.State == registry.InstanceRevoked:
		return denial.New(denial.Revoked, "an instance of %q", id)
	}
	return i.Belongs(a)
}

func (s standing) TokenLive(id agentid.ID, token string) error {
	a, err := s.agent(id)
	if err != nil {
		return err
	}
	return a.TokenLive(token)
}

func (s standing) NotVoided(id agentid.ID, token string) error {
	a, err := s.agent(id)
	if err != nil {
		return err
	}
	return a.NotVoided(token)
}

// judge does what README.md tells an implementer to do, step by step.
func judge(v *vector) (*capability.Chain, error) {
	ring, err := v.keyring()
	if err != nil {
		return nil, err
	}
	c, err := capability.Verify(v.Chain, ring, time.Unix(v.Now, 0))
	if err != nil {
		return nil, err
	}
	if v.Presenter != "" && c.Holder().String() != v.Presenter {
		return nil, denial.New(denial.NotHolder, "held by %q", c.Holder())
	}
	if v.Directory != nil {
		at := v.Now
		if v.Directory.At != 0 {
			at = v.Directory.At
		}
		if err := c.Check(time.Unix(at, 0), v.Directory.directory()); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func TestVectors(t *testing.T) {
	for _, v := range load(t) {
		t.Run(v.Name, func(t *testing.T) {
			c, err := judge(v)
			if (v.Accept == nil) == (v.Refuse == "") {
				t.Fatal("the vector must say either what is accepted or why it is refused")
			}
			if v.Accept == nil {
				if got := denial.Of(err); got != v.Refuse {
					t.Errorf("got %q (%v), want %q", got, err, v.Refuse)
				}
				if c != nil {
					t.Error("got a chain with the refusal")
				}
				return
			}
			if err != nil {
				t.Fatalf("refused: %v", err)
			}
			got := accepted{
				Holder: c.Holder().String(), Scopes: texts(c.Scopes()), Delegatable: texts(c.Delegatable()), Depth: c.Depth(),
				NotBefore: c.NotBefore().Unix(), Expires: c.Expires().Unix(), Digest: c.Digest(),
			}
			for _, h := range c.Hops() {
				got.Tokens = append(got.Tokens, h.Token)
			}
			equal(t, got, *v.Accept)
			if c.Text() != v.Chain {
				t.Error("the chain prints as another text")
			}
			for _, s := range v.Accept.Scopes {
				if !c.Has(capability.RequireScope(s)) {
					t.Errorf("does not have %s", s)
				}
			}
		})
	}
}

func texts(list []capability.Scope) []string {
	out := []string{}
	for _, s := range list {
		out = append(out, s.String())
	}
	return out
}

func equal(t *testing.T, got, want accepted) {
	t.Helper()
	a, errA := json.Marshal(got)
	b, errB := json.Marshal(want)
	if errA != nil || errB != nil || !bytes.Equal(a, b) {
		t.Errorf("got  %s\nwant %s", a, b)
	}
}

// TestRunnerIsStrict: a member that is not known, a second document in a file,
// and a text that is none fail. Otherwise a misspelt vector would pass.
func TestRunnerIsStrict(t *testing.T) {
	for _, text := range []string{`{"schema":"x","expect":"ok"}`, `{"accept":{"scope":[]}}`, `{"directory":{"agent":[]}}`, `{"list":[]}`, `{} {}`, `{}]`, ``, `[]`} {
		for _, v := range []any{new(vector), new(trustVector)} {
			if err := decode([]byte(text), v); err == nil {
				t.Errorf("%s was read", text)
			}
		}
	}
}

// page is the specification: its rules with the reasons that each may give, and
// the section in which each stands.
type rule struct {
	section string
	reasons []denial.Reason
	named   bool // a test that shows it
}

var (
	heading = regexp.MustCompile(`^## (.+)$`)
	ruled   = regexp.MustCompile(`^(?:\| |- |\d+\. )?\**([DGKRPTCVS]\d+)\.\**[ *]`)
	quoted  = regexp.MustCompile("`([a-z-]+)`")
	named   = regexp.MustCompile("`[a-z/]+\\.(?:Test|Fuzz)[A-Za-z]+`")
)

func spec(t *testing.T) (lines []string, rules map[string]rule) {
	t.Helper()
	page, err := os.ReadFile(filepath.FromSlash("../../../docs/spec/capability.md"))
	if err != nil {
		t.Fatal(err)
	}
	rules = map[string]rule{}
	section := ""
	known := reasons(t)
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
		r := rule{section: section, named: named.MatchString(line)}
		for _, q := range quoted.FindAllStringSubmatch(line, -1) {
			if known[denial.Reason(q[1])] && !slices.Contains(r.reasons, denial.Reason(q[1])) {
				r.reasons = append(r.reasons, denial.Reason(q[1]))
			}
		}
		rules[m[1]] = r
	}
	if len(rules) < 40 {
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

// TestEveryRuleHasItsVectors: each rule of the specification is broken by a
// vector for each reason that it gives, and no vector names a rule, a section or
// a reason that there is not. A rule without a reason, about what is remembered,
// may name a test instead.
func TestEveryRuleHasItsVectors(t *testing.T) {
	_, rules := spec(t)
	known := reasons(t)
	seen := map[string]map[denial.Reason]int{}
	chains, trusts := loadAll(t)
	want := map[*about]string{}
	for _, v := range chains {
		want[&v.about] = schema
	}
	for _, v := range trusts {
		want[&v.about] = trustSchema
	}
	for v, schema := range want {
		r, ok := rules[v.Rule]
		switch {
		case v.Schema != schema:
			t.Errorf("%s: schema %q", v.Name, v.Schema)
		case !ok:
			t.Errorf("%s: the specification has no rule %q", v.Name, v.Rule)
		case v.Section != r.section:
			t.Errorf("%s: rule %s stands in section %q, not in %q", v.Name, v.Rule, r.section, v.Section)
		case v.Description == "":
			t.Errorf("%s: no description", v.Name)
		case v.Refuse != "" && !known[v.Refuse]:
			t.Errorf("%s: package denial has no reason %q", v.Name, v.Refuse)
		case v.Refuse != "" && v.Rule != "V0" && !slices.Contains(r.reasons, v.Refuse):
			t.Errorf("%s: rule %s does not give the reason %q", v.Name, v.Rule, v.Refuse)
		}
		if seen[v.Rule] == nil {
			seen[v.Rule] = map[denial.Reason]int{}
		}
		seen[v.Rule][v.Refuse]++
	}
	for id, r := range rules {
		if len(seen[id]) == 0 && (len(r.reasons) > 0 || !r.named) {
			t.Errorf("rule %s has no vector", id)
		}
		for _, reason := range r.reasons {
			if seen[id][reason] == 0 {
				t.Errorf("rule %s has no vector for %q", id, reason)
			}
		}
	}
}

// TestEveryMustIsShown: what the specification demands is a rule, which has its
// vectors, or names the test that shows it.
func TestEveryMustIsShown(t *testing.T) {
	lines, _ := spec(t)
	n := 0
	for _, line := range lines {
		if !strings.Contains(line, "MUST") || strings.Contains(line, "BCP 14") {
			continue
		}
		n++
		if !ruled.MatchString(line) && !named.MatchString(line) {
			t.Errorf("neither a rule nor a test: %s", line)
		}
	}
	if n < 10 {
		t.Errorf("found %d demands in the specification", n)
	}
}
