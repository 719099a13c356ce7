package meshfile

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/registry"
)

// lineWidth is up to which column a list stays on one line. Longer ones have an
// entry a line, so that a review shows the one that changed.
const lineWidth = 80

// Text writes the file in its one form: sorted, without what is the default.
// What it writes, [Parse] reads to an equal Mesh.
func (m *Mesh) Text() []byte {
	w := &writer{}
	w.line(0, "version: "+strconv.Itoa(version))
	if m.Topics != nil {
		w.section("topics", len(m.Topics) == 0)
		for _, t := range m.Topics {
			w.line(1, quote(t.Topic)+": {max_age: "+short(time.Duration(t.MaxAge)*time.Second)+"}")
		}
	}
	if m.Agents != nil {
		w.section("agents", len(m.Agents) == 0)
		for _, a := range m.Agents {
			w.agent(a)
		}
	}
	return []byte(w.b.String())
}

type writer struct{ b strings.Builder }

// line writes one line at a level of indentation.
func (w *writer) line(level int, s string) {
	w.b.WriteString(strings.Repeat("  ", level) + s + "\n")
}

func (w *writer) section(name string, empty bool) {
	if empty {
		w.line(0, name+": {}")
		return
	}
	w.line(0, name+":")
}

func (w *writer) agent(a registry.NewAgent) {
	settle(&a)
	body := &writer{}
	body.settings(a)
	body.list(2, "call", spelt(a.Rights.Call))
	body.list(2, "handle", spelt(a.Rights.Handle))
	body.list(2, "publish", a.Rights.Publish)
	body.list(2, "subscribe", a.Rights.Subscribe)
	body.list(2, "may_delegate", spelt(a.Rights.MayDelegate))
	if !a.Rights.Plain.IsZero() {
		body.line(2, "plain:")
		body.list(3, "publish", a.Rights.Plain.Publish)
		body.list(3, "subscribe", a.Rights.Plain.Subscribe)
	}
	body.labels(a.Labels)
	name := quote(a.Agent.String())
	if body.b.Len() == 0 {
		w.line(1, name+": {}")
		return
	}
	w.line(1, name+":")
	w.b.WriteString(body.b.String())
}

func (w *writer) settings(a registry.NewAgent) {
	w.word("kind", string(a.Kind), string(registry.Service))
	w.word("heartbeat", string(a.Heartbeat), string(usualHeartbeat(a.Stock)))
	w.word("readmit", string(a.Readmit), string(registry.ReadmitAttestation))
	w.word("sessions", string(a.Sessions), string(registry.SessionsAny))
	if a.Stock {
		w.line(2, "stock: true")
	}
	if a.Depth != registry.DefaultDepth {
		w.line(2, "depth: "+strconv.Itoa(a.Depth))
	}
	if o := a.Join.OIDC; !a.Join.IsZero() {
		w.line(2, "join:")
		w.flow(3, "oidc", "{", []string{
			"issuer: " + quoteInBraces(o.Issuer), "audience: " + quoteInBraces(o.Audience), "subject: " + quoteInBraces(o.Subject),
		}, "}", "")
	}
}

// word writes a setting that is not the usual one.
func (w *writer) word(key, value, usual string) {
	if value != usual {
		w.line(2, key+": "+quote(value))
	}
}

func (w *writer) list(level int, key string, list []string) {
	if len(list) == 0 {
		return
	}
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = quote(s)
	}
	w.flow(level, key, "[", quoted, "]", "- ")
}

func (w *writer) labels(m map[string]string) {
	if len(m) == 0 {
		return
	}
	var list []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		list = append(list, quoteInBraces(k)+": "+quoteInBraces(m[k]))
	}
	w.flow(2, "labels", "{", list, "}", "")
}

// flow writes what fits on one line there, and else an item a line.
func (w *writer) flow(level int, key, open string, items []string, end, bullet string) {
	line := key + ": " + open + strings.Join(items, ", ") + end
	if 2*level+len(line) <= lineWidth {
		w.line(level, line)
		return
	}
	w.line(level, key+":")
	for _, i := range items {
		w.line(level+1, bullet+i)
	}
}

func spelt(list []capability.Scope) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = s.String()
	}
	return out
}

// quote writes a text plainly where every YAML reader takes it for that text, and
// else in double quotes, with what cannot be seen as its number.
func quote(s string) string {
	if isPlain(s) {
		return s
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteString(`\` + string(r))
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// quoteInBraces is quote where some readers take any colon for that of a key.
func quoteInBraces(s string) string {
	if isPlain(s) && strings.Contains(s, ":") {
		return `"` + s + `"`
	}
	return quote(s)
}

// words are read as something else than text by YAML, some of them by its older
// version only.
var words = []string{"true", "false", "null", "yes", "no", "on", "off", "y", "n"}

func isPlain(s string) bool {
	if s == "" || slices.Contains(words, s) || s[0] < 'a' || s[0] > 'z' || s[len(s)-1] == ':' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && !strings.ContainsRune("-_.:", rune(c)) {
			return false
		}
	}
	return true
}

// short writes a duration without the zeros at its end: 720h, not 720h0m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
