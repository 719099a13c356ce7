package natsconf_test

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/nats-io/nats-server/v2/conf"

	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/natstest"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// What is proven of the layout is proven of the servers only if the two are the
// same: everything that crosses in the file is in the layout and the other way
// round.
func TestLayoutIsWhatTheServersAreTold(t *testing.T) {
	for _, prefix := range []string{subject.DefaultPrefix, "acme"} {
		space, err := subject.New(prefix)
		if err != nil {
			t.Fatal(err)
		}
		m := natstest.Prepare(t, func(c *natsconf.Config) { c.Space = space })
		text, err := os.ReadFile(m.File)
		if err != nil {
			t.Fatal(err)
		}
		file, err := conf.Parse(string(text))
		if err != nil {
			t.Fatal(err)
		}
		var got, want []string
		for name, a := range file["accounts"].(map[string]any) {
			if name != natsconf.System {
				got = append(got, crossingsOf(t, name, a.(map[string]any))...)
			}
		}
		for _, a := range natsconf.Layout(space) {
			want = append(want, fmt.Sprintf("%s jetstream %v", a.Name, a.JetStream))
			for _, e := range a.Exports {
				want = append(want, fmt.Sprintf("%s offers %q service %v many %v to %v", a.Name, e.Subject, e.Service, e.Many, e.Accounts))
			}
			for _, i := range a.Imports {
				want = append(want, fmt.Sprintf("%s takes %q of %s service %v as %q", a.Name, i.Subject, i.From, i.Service, i.To))
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) || len(got) < 20 {
			t.Errorf("the file has\n%q\nthe layout\n%q", got, want)
		}
	}
}

// crossingsOf spells an account of the file as the layout is spelled.
func crossingsOf(t *testing.T, name string, a map[string]any) (out []string) {
	t.Helper()
	out = append(out, fmt.Sprintf("%s jetstream %v", name, a["jetstream"] == "enabled"))
	list := func(key string) []map[string]any {
		var out []map[string]any
		entries, _ := a[key].([]any)
		for _, e := range entries {
			out = append(out, e.(map[string]any))
		}
		return out
	}
	for _, e := range list("exports") {
		subj, service := e["service"]
		if !service {
			subj = e["stream"]
		}
		out = append(out, fmt.Sprintf("%s offers %q service %v many %v to %v", name, subj, service, e["response_type"] == "stream", e["accounts"]))
	}
	for _, i := range list("imports") {
		from, service := i["service"]
		if !service {
			from = i["stream"]
		}
		f := from.(map[string]any)
		to, _ := i["to"].(string)
		out = append(out, fmt.Sprintf("%s takes %q of %s service %v as %q", name, f["subject"], f["account"], service, to))
	}
	return out
}
