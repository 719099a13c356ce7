package meshfile_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/internal/meshfile"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/registry"
)

func parse(s string) (*meshfile.Mesh, error) {
	return meshfile.Parse("agents.yaml", []byte(s), subject.Default())
}

func mustParse(t *testing.T, s string) *meshfile.Mesh {
	t.Helper()
	m, err := parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

const whole = `version: 1
topics:
  alerts: {max_age: 1m}
  news.daily: {max_age: 24h}
agents:
  "1234": {}
  admin:
    kind: person
    heartbeat: none
    call: ["admin:registry"] # as good as plain
  reader:
    heartbeat: always
    readmit: manual
    sessions: single
    join: {oidc: {subject: "system:serviceaccount:prod:reader", issuer: "https://issuer.example", audience: sealmesh}}
    depth: 1
    call: [write:reports, read:mail]
    handle: [read:logs]
    publish: [news.daily]
    subscribe:
      - news.daily
      - alerts
    may_delegate: [read:mail, publish:news.daily, handle:read:logs]
    plain: {publish: [legacy.orders], subscribe: [legacy.answers]}
    labels: {team: ops, "on call": "yes", 'a"b': "x\ty"}
  stocky: {stock: true}
`

func TestParse(t *testing.T) {
	m := mustParse(t, strings.ReplaceAll(whole, `"x\ty"`, `'x"y\'`))
	if len(m.Topics) != 2 || m.Topics[0] != (registry.Topic{Topic: "alerts", MaxAge: 60}) || m.Topics[1].MaxAge != 86400 {
		t.Errorf("got topics %v", m.Topics)
	}
	var names []string
	for _, a := range m.Agents {
		names = append(names, a.Agent.String())
	}
	if got := strings.Join(names, " "); got != "1234 admin reader stocky" {
		t.Fatalf("got agents %s", got)
	}
	r, _ := m.Agent(agentid.Require("reader"))
	if r.Kind != registry.Service || r.Heartbeat != registry.HeartbeatAlways || r.Readmit != registry.ReadmitManual || r.Sessions != registry.SessionsSingle || r.Depth != 1 || r.Stock ||
		r.Join.OIDC != (registry.OIDCRule{Issuer: "https://issuer.example", Audience: "sealmesh", Subject: "system:serviceaccount:prod:reader"}) {
		t.Errorf("got settings %+v", r)
	}
	if fmt.Sprint(r.Rights.Call) != "[read:mail write:reports]" || fmt.Sprint(r.Rights.Subscribe) != "[alerts news.daily]" ||
		fmt.Sprint(r.Rights.MayDelegate) != "[handle:read:logs publish:news.daily read:mail]" || fmt.Sprint(r.Rights.Plain) != "{[legacy.orders] [legacy.answers]}" {
		t.Errorf("got rights %+v", r.Rights)
	}
	if len(r.Labels) != 3 || r.Labels["on call"] != "yes" || r.Labels[`a"b`] != `x"y\` {
		t.Errorf("got labels %q", r.Labels)
	}
	s, _ := m.Agent(agentid.Require("stocky"))
	if !s.Stock || s.Heartbeat != registry.HeartbeatNone || s.Depth != registry.DefaultDepth || s.Labels != nil {
		t.Errorf("got %+v of a stock client", s)
	}
	if a, _ := m.Agent(agentid.Require("admin")); len(a.Rights.Call) != 1 || a.Rights.Call[0] != capability.RequireScope("admin:registry") {
		t.Errorf("got admin %+v", a)
	}
	if _, ok := m.Agent(agentid.Require("nobody")); ok {
		t.Error("found an agent that is not in the file")
	}
}

// A section that is not there is not managed, an empty one is meant empty.
func TestSectionsThatAreNotThere(t *testing.T) {
	for s, want := range map[string][2]bool{
		"version: 1\n":                            {false, false},
		"version: 1\nagents: {}\n":                {false, true},
		"---\nversion: 1\ntopics: {}\n":           {true, false},
		"{\"version\":1,\"agents\":{}}":           {false, true},
		"# x\nagents: {}\nversion: 1\ntopics: {}": {true, true},
	} {
		m := mustParse(t, s)
		if got := [2]bool{m.Topics != nil, m.Agents != nil}; got != want {
			t.Errorf("got %v of %q, want %v", got, s, want)
		}
	}
}

func TestTextIsCanonical(t *testing.T) {
	long := make([]string, 12)
	for i := range long {
		long[i] = fmt.Sprintf("read:logs-%d", i)
	}
	text := strings.ReplaceAll(whole, `"x\ty"`, `'x"y\'`) + "  zed: {call: [\"" + strings.Join(long, "\", \"") + "\"]}\n"
	const want = `version: 1
topics:
  alerts: {max_age: 1m}
  news.daily: {max_age: 24h}
agents:
  "1234": {}
  admin:
    kind: person
    heartbeat: none
    call: [admin:registry]
  reader:
    heartbeat: always
    readmit: manual
    sessions: single
    depth: 1
    join:
      oidc:
        issuer: "https://issuer.example"
        audience: sealmesh
        subject: "system:serviceaccount:prod:reader"
    call: [read:mail, write:reports]
    handle: [read:logs]
    publish: [news.daily]
    subscribe: [alerts, news.daily]
    may_delegate: [handle:read:logs, publish:news.daily, read:mail]
    plain:
      publish: [legacy.orders]
      subscribe: [legacy.answers]
    labels: {"a\"b": "x\"y\\", "on call": "yes", team: ops}
  stocky:
    stock: true
  zed:
    call:
      - read:logs-0
      - read:logs-1
      - read:logs-10
      - read:logs-11
      - read:logs-2
      - read:logs-3
      - read:logs-4
      - read:logs-5
      - read:logs-6
      - read:logs-7
      - read:logs-8
      - read:logs-9
`
	got := string(mustParse(t, text).Text())
	if got != want {
		t.Fatalf("got\n%s\nwant\n%s", got, want)
	}
	if again := string(mustParse(t, got).Text()); again != got {
		t.Errorf("got\n%s\nthe second time", again)
	}
}

func TestParseRefuses(t *testing.T) {
	agent := func(s string) string { return "version: 1\nagents:\n  reader:\n    " + s + "\n" }
	many := func(n int, form string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, form, i)
		}
		return b.String()
	}
	tests := map[string]struct {
		text string
		line int
		want string // in the problem
		hint string // in the hint
	}{
		"empty":               {"", 0, "is empty", "sealmesh export"},
		"only comments":       {"# nothing\n", 0, "is empty", ""},
		"no mapping":          {"- a\n", 1, "the file is not a mapping", ""},
		"scalar":              {"version\n", 1, "the file is not a mapping", ""},
		"no version":          {"agents: {}\n", 1, "does not say its version", "version: 1"},
		"other version":       {"version: 2\n", 1, "version must be 1 to 1", ""},
		"version as text":     {"version: \"1\"\n", 1, `"version" is not a number`, ""},
		"unknown section":     {"version: 1\nagent: {}\n", 2, `unknown key "agent"`, `did you mean "agents"?`},
		"unknown key":         {agent("hanlde: [read:logs]"), 4, `unknown key "hanlde"`, `did you mean "handle"?`},
		"farther key":         {agent("permissions: [read:logs]"), 4, `unknown key "permissions"`, "there are kind"},
		"upper case key":      {agent("Call: [read:logs]"), 4, `unknown key "Call"`, `did you mean "call"?`},
		"durable":             {agent("durable: {inbox: [news]}"), 4, `unknown key "durable"`, "an agent makes its durable subscriptions itself"},
		"replace":             {agent("replace: true"), 4, `unknown key "replace"`, "must not undo a revocation"},
		"status":              {agent("status: suspended"), 4, `unknown key "status"`, "sealmesh agent suspend"},
		"double section":      {"version: 1\nagents: {}\nagents: {}\n", 3, `key "agents" is there twice, first in line 2`, ""},
		"double agent":        {"version: 1\nagents:\n  a: {}\n  b: {}\n  a: {}\n", 5, `key "a" is there twice, first in line 3`, ""},
		"double agent quoted": {"version: 1\nagents: {a: {}, \"a\": {}}\n", 2, `key "a" is there twice`, ""},
		"double key":          {agent("call: [read:a]\n    call: [read:b]"), 5, `key "call" is there twice, first in line 4`, ""},
		"double topic":        {"version: 1\ntopics: {a: {max_age: 1h}, a: {max_age: 2h}}\n", 2, `key "a" is there twice`, ""},
		"double right":        {agent("call: [read:a, read:b, read:a]"), 4, `call lists "read:a" twice`, ""},
		"double label":        {agent("labels: {a: b, a: c}"), 4, `key "a" is there twice`, ""},
		"no agents":           {"version: 1\nagents:\n", 2, `"agents" has no value`, "write {}"},
		"no rights":           {"version: 1\nagents:\n  reader:\n    # call: [read:logs]\n", 3, `"reader" has no value`, "write {} where nothing is meant"},
		"empty list":          {agent("call:"), 4, `"call" has no value`, "write []"},
		"null list":           {agent("call: null"), 4, `"call" has no value`, ""},
		"null setting":        {agent("kind: ~"), 4, `"kind" has no value`, ""},
		"agents as list":      {"version: 1\nagents: [reader]\n", 2, `"agents" is not a mapping`, ""},
		"list as text":        {agent("call: read:logs"), 4, `"call" is not a list`, ""},
		"list as mapping":     {agent("call: {read: logs}"), 4, `"call" is not a list`, ""},
		"text as list":        {agent("kind: [service]"), 4, `"kind" is not kind as one text`, ""},
		"entry as mapping":    {agent("call: [read: logs]"), 4, `is not an entry of call as one text`, ""},
		"bad ID":              {"version: 1\nagents:\n  Reader: {}\n", 3, `agent ID "Reader"`, ""},
		"ID with slash":       {"version: 1\nagents:\n  ../x: {}\n", 3, `agent ID "../x"`, ""},
		"number as ID":        {"version: 1\nagents:\n  7: {}\n", 3, `key "7" is not text`, "put it in quotes"},
		"true as ID":          {"version: 1\nagents:\n  true: {}\n", 3, `key "true" is not text`, "put it in quotes"},
		"control":             {"version: 1\nagents:\n  control: {}\n", 3, "reserved-name", "remove it"},
		"sys":                 {"version: 1\nagents:\n  sys: {}\n", 3, "reserved-name", ""},
		"sealmesh":            {"version: 1\nagents:\n  sealmesh: {}\n", 3, "reserved-name", ""},
		"wildcard":            {agent("call: [\"read:*\"]"), 4, "wildcard-scope", "wildcards do not exist"},
		"shortcut":            {agent("call:\n      - read:logs\n      - read:all"), 6, "wildcard-scope", ""},
		"bad scope":           {agent("call: [logs]"), 4, "call: bad-scope", "verb:resource"},
		"call of an event":    {agent("call: [publish:news]"), 4, "not a scope that can be called", ""},
		"call of self":        {agent("call: [self:session]"), 4, "bad-scope", ""},
		"handle of admin":     {agent("handle: [admin:registry]"), 4, "handle: bad-scope", ""},
		"handle twice":        {agent("handle: [handle:read:logs]"), 4, "bad-scope", ""},
		"topic wildcard":      {agent("publish: [\"news.>\"]"), 4, "publish: wildcard-scope", ""},
		"bad topic":           {agent("subscribe: [a..b]"), 4, "subscribe: bad-scope", ""},
		"delegates others'":   {agent("call: [read:a]\n    may_delegate: [read:a, read:b]"), 5, "may_delegate: beyond-own", ""},
		"delegates admin":     {agent("call: [admin:registry]\n    may_delegate: [admin:registry]"), 5, "not-delegatable", ""},
		"plain wildcard":      {agent("plain: {publish: [\"legacy.>\"]}"), 4, "publish: bad-plain", "one literal subject"},
		"plain of the mesh":   {agent("plain: {publish: [mesh.call.a.read.logs]}"), 4, "bad-plain", ""},
		"plain of the server": {agent("plain: {subscribe: [\"$SYS.x\"]}"), 4, "bad-plain", ""},
		"plain as list":       {agent("plain: [a.b]"), 4, `"plain" is not a mapping`, ""},
		"plain unknown key":   {agent("plain: {publsh: [a.b]}"), 4, `unknown key "publsh"`, `did you mean "publish"?`},
		"plain too many":      {agent("plain:\n      publish:\n" + many(limits.Plain+1, "        - x.%d\n")), 4, "at most 64", ""},
		"kind":                {agent("kind: robot"), 4, `kind "robot" is not service, person or job`, ""},
		"heartbeat":           {agent("heartbeat: 30s"), 4, `heartbeat "30s" is not session, always or none`, ""},
		"sessions":            {agent("sessions: one"), 4, `sessions "one" is not any or single`, ""},
		"join nobody":         {agent("join: {}"), 4, "join names nobody", "write oidc"},
		"join as text":        {agent("join: anybody"), 4, `"join" is not a mapping`, ""},
		"join token":          {agent("join: {token: x}"), 4, `unknown key "token"`, ""},
		"join half":           {agent("join: {oidc: {issuer: \"https://i.example\", subject: x}}"), 4, "does not say its audience", ""},
		"join pattern":        {agent("join: {oidc: {issuer: \"https://i.example\", subject: \"x*\", audience: y}}"), 4, "* stands for nothing", ""},
		"join empty":          {agent("join: {oidc: {issuer: \"https://i.example\", subject: \"\", audience: y}}"), 4, "subject must have 1 to 512", ""},
		"join without TLS":    {agent("join: {oidc: {issuer: \"http://i.example\", subject: x, audience: y}}"), 4, "is not https://", ""},
		"join number":         {agent("join: {oidc: {issuer: \"https://i.example\", subject: 7, audience: y}}"), 4, "subject must be text", "put it in quotes"},
		"readmit":             {agent("readmit: never"), 4, `readmit "never" is not attestation or manual`, ""},
		"stock as text":       {agent("stock: \"true\""), 4, `"stock" is not true or false`, ""},
		"stock in capitals":   {agent("stock: True"), 4, `"stock" is not true or false`, ""},
		"stock as yes":        {agent("stock: yes"), 4, `"stock" is not true or false`, ""},
		"depth zero":          {agent("depth: 0"), 4, "depth must be 1 to 8", ""},
		"depth too much":      {agent("depth: 9"), 4, "depth must be 1 to 8", ""},
		"depth octal":         {agent("depth: 03"), 4, `"03" is not a number in plain digits`, ""},
		"depth hex":           {agent("depth: 0x3"), 4, `"0x3" is not a number in plain digits`, ""},
		"depth huge":          {agent("depth: 99999999999999999999"), 4, "not", ""},
		"depth as text":       {agent("depth: three"), 4, `"depth" is not a number`, ""},
		"label number":        {agent("labels: {build: 1.10}"), 4, `build must be text`, "put it in quotes"},
		"label bool":          {agent("labels: {canary: true}"), 4, `canary must be text`, "put it in quotes"},
		"label without name":  {agent("labels: {\"\": x}"), 4, `label ""`, ""},
		"label control":       {agent("labels: {a: \"x\\u0007y\"}"), 4, `label "a"`, ""},
		"label too long":      {agent("labels: {a: " + strings.Repeat("x", limits.LabelText+1) + "}"), 4, "at most 128", ""},
		"labels too many":     {agent("labels:\n" + many(limits.Labels+1, "      l%d: x\n")), 4, "33 labels", ""},
		"rights too many":     {agent("call:\n" + many(limits.Scopes+1, "      - read:x%d\n")), 4, "call lists 257", ""},
		"topic without age":   {"version: 1\ntopics:\n  news: {}\n", 3, "does not say its max_age", "max_age: 24h"},
		"topic age number":    {"version: 1\ntopics:\n  news: {max_age: 24}\n", 3, "max_age must be text", ""},
		"topic age days":      {"version: 1\ntopics:\n  news: {max_age: 7d}\n", 3, `"7d" is not a duration`, "30s, 5m or 24h"},
		"topic age fraction":  {"version: 1\ntopics:\n  news: {max_age: 1500ms}\n", 3, "whole seconds", ""},
		"topic age zero":      {"version: 1\ntopics:\n  news: {max_age: 0s}\n", 3, "1s to 720h", ""},
		"topic age long":      {"version: 1\ntopics:\n  news: {max_age: 721h}\n", 3, "1s to 720h", ""},
		"topic key":           {"version: 1\ntopics:\n  news: {maxage: 1h}\n", 3, `unknown key "maxage"`, `did you mean "max_age"?`},
		"topic name":          {"version: 1\ntopics:\n  \"news.*\": {max_age: 1h}\n", 3, "wildcard-scope", ""},
		"topics too many":     {"version: 1\ntopics:\n" + many(limits.Topics+1, "  t%d: {max_age: 1h}\n"), 2, "257 durable topics", ""},
		"anchor":              {"version: 1\nagents:\n  a: &x {}\n  b: {}\n", 3, "anchor or alias", "write out"},
		"alias":               {"version: 1\nagents:\n  b: *x\n", 3, "anchor or alias", ""},
		"merge":               {"version: 1\nagents:\n  b:\n    <<: {}\n", 4, "anchor or alias", ""},
		"bomb":                {"a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n", 1, "anchor or alias", ""},
		"tag":                 {"version: !!int 1\n", 1, "tag or directive", ""},
		"directive":           {"%YAML 1.2\n---\nversion: 1\n", 1, "tag or directive", ""},
		"block text":          {agent("kind: |\n      service"), 4, "not allowed here", ""},
		"folded text":         {agent("kind: >\n      service"), 4, "not allowed here", ""},
		"complex key":         {"version: 1\nagents:\n  ? reader\n  : {}\n", 3, "not allowed here", ""},
		"two documents":       {"version: 1\n---\nversion: 1\n", 2, "more than one YAML document", ""},
		"end of document":     {"version: 1\n...\n", 2, "more than one YAML document", ""},
		"glued colon":         {"version: 1\nagents:\n  a: {call: [read:logs]}\n", 3, "colon with nothing around it", "quotes"},
		"glued label":         {agent("labels: {team:ops}"), 4, "colon with nothing around it", "quotes"},
		"tab":                 {"version: 1\nagents:\n\treader: {}\n", 3, "tab", "spaces"},
		"control character":   {"version: 1\n# \x1b[2J\n", 2, "invisible character U+001B", ""},
		"zero width":          {"version: 1\nagents:\n  reader:\n    call: [read:lo\u200bgs]\n", 4, "U+200B", ""},
		"right to left":       {"version: 1\n# \u202e\n", 2, "U+202E", ""},
		"byte order mark":     {"\ufeffversion: 1\n", 1, "U+FEFF", ""},
		"NUL":                 {"version: 1\n#\x00\n", 2, "U+0000", ""},
		"not UTF-8":           {"version: 1\n#\xff\n", 2, "not UTF-8", ""},
		"syntax":              {"version: 1\nagents: {a: {\n", 2, "", ""},
		"bad indent":          {"version: 1\nagents:\n  a: {}\n b: {}\n", 4, "", ""},
		"deep flow":           {"version: 1\nagents: " + strings.Repeat("[", 100_000) + "\n", 2, "nests too deep", ""},
		"deep flow mapping":   {"version: 1\nagents: " + strings.Repeat("{a: ", 100_000) + "\n", 2, "nests too deep", ""},
		"deep block":          {"version: 1\n" + strings.Repeat(" ", 65) + "x: 1\n", 2, "indented", ""},
		"deep list":           {"version: 1\nagents:\n" + strings.Repeat("- ", 1000) + "x\n", 3, "nests too deep", ""},
		"many keys":           {"version: 1\n" + many(1<<15, "k%d: 1\n"), 1<<15 + 1, "more than 32768 keys", ""},
		"oversize":            {"version: 1\n" + strings.Repeat("#\n", meshfile.MaxFile/2), 0, "longer than 1048576 bytes", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			m, err := parse(tt.text)
			if err == nil {
				t.Fatalf("got %+v, want a refusal", m)
			}
			var e *meshfile.Error
			if !errors.As(err, &e) {
				t.Fatalf("got %T %v", err, err)
			}
			if e.Path != "agents.yaml" || e.Line != tt.line || !strings.Contains(e.Problem, tt.want) || !strings.Contains(e.Hint(), tt.hint) {
				t.Errorf("got line %d %q, hint %q\nwant line %d %q, hint %q", e.Line, e.Problem, e.Hint(), tt.line, tt.want, tt.hint)
			}
			place := "meshfile: agents.yaml: "
			if tt.line > 0 {
				place = fmt.Sprintf("meshfile: agents.yaml:%d: ", tt.line)
			}
			if s := err.Error(); !strings.HasPrefix(s, place) || strings.Contains(s, "\n") || len(s) > 600 {
				t.Errorf("got %q", s)
			}
		})
	}
}

// What the documentation shows can be read, and is in the form that is written but
// for its comments.
func TestDocumentedExample(t *testing.T) {
	doc, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(doc), "```yaml\n")
	example, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("found no example")
	}
	var plain strings.Builder
	for line := range strings.Lines(example) {
		before, _, _ := strings.Cut(line, " #")
		plain.WriteString(strings.TrimRight(before, " \n") + "\n")
	}
	if got := string(mustParse(t, example).Text()); got != plain.String() {
		t.Errorf("got\n%s\nwant\n%s", got, plain.String())
	}
}

// A reason that a parser gave stays a reason.
func TestParseKeepsReasons(t *testing.T) {
	_, err := parse("version: 1\nagents:\n  a: {call: [\"read:*\"]}\n")
	if got := denial.Of(err); got != denial.WildcardScope {
		t.Errorf("got reason %q of %v", got, err)
	}
}

// Labels are anybody's text: whatever the registry takes, the file can say.
func TestTextOfAnyLabel(t *testing.T) {
	for _, s := range []string{
		"", " ", "x y", "yes", "null", "~", "1.10", "0x1f", "a: b", "a #b", "- a", "[a]", "{a}", "&a", "*a", "!a", "|", ">", "@a", "`a`", "%a",
		`"`, `'`, `\`, `\n`, "ä", "日本", "a\u200bb", "\u202e", "\ufeff", "\U000e0041", "\U0001f600", "a:", ":a", "a,b", "?", "? a", "---", "...", "\u0085", "\u2028", "\ufffd", "\ufffe", "a\u00a0b", "#",
	} {
		m := &meshfile.Mesh{Agents: []registry.NewAgent{{Agent: agentid.Require("a"), Labels: map[string]string{"k" + s: s}}}}
		text := m.Text()
		got, err := parse(string(text))
		if err != nil {
			t.Errorf("%q: %v in\n%s", s, err, text)
			continue
		}
		if l := got.Agents[0].Labels; len(l) != 1 || l["k"+s] != s {
			t.Errorf("got %q, want %q, of\n%s", l, s, text)
		}
	}
}
