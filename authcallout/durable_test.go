package authcallout_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/sealmesh/sealmesh/authcallout"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/subject"
)

func durable(names ...string) authcallout.Subject {
	return authcallout.Subject{Agent: reader, Instance: instance, Durables: names}
}

// A durable subscription gives four subjects, all of that one consumer, and
// nothing over consumers or streams.
func TestCompileDurable(t *testing.T) {
	none, err := authcallout.Compile(subject.Default(), durable())
	if err != nil {
		t.Fatal(err)
	}
	g, err := authcallout.Compile(subject.Default(), durable("inbox"))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range g.Publish {
		if !slices.Contains(none.Publish, l) {
			got = append(got, l.Subject+" | "+l.From)
		}
	}
	want := []string{
		"$JS.ACK.*.*.MESH_EVENTS.reader_inbox.*.*.*.*.* | durable inbox",
		"$JS.ACK.MESH_EVENTS.reader_inbox.*.*.*.*.* | durable inbox",
		"$JS.API.CONSUMER.INFO.MESH_EVENTS.reader_inbox | durable inbox",
		"$JS.API.CONSUMER.MSG.NEXT.MESH_EVENTS.reader_inbox | durable inbox",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if !slices.Equal(g.Subscribe, none.Subscribe) {
		t.Error("a durable subscription changed what may be subscribed")
	}
	for _, s := range []string{
		"$JS.API.CONSUMER.MSG.NEXT.MESH_EVENTS.reader_other", "$JS.API.CONSUMER.MSG.NEXT.MESH_EVENTS.writer_inbox", "$JS.API.CONSUMER.MSG.NEXT.KV_MESH_REPLAY.reader_inbox",
		"$JS.ACK.MESH_EVENTS.writer_inbox.1.1.1.1.0", "$JS.ACK.KV_MESH_REPLAY.reader_inbox.1.1.1.1.0", "$JS.ACK.MESH_EVENTS.reader_inbox.1.1.1.1", "$JS.ACK.MESH_EVENTS.reader_inbox.1.1.1.1.0.0",
		// The first form of another's consumer, with names that look like the second.
		"$JS.ACK.MESH_EVENTS.writer_inbox.MESH_EVENTS.reader_inbox.1.1.1", "$JS.ACK.MESH_EVENTS.writer_inbox.MESH_EVENTS.reader_inbox.1.1",
		"$JS.API.CONSUMER.CREATE.MESH_EVENTS.reader_inbox", "$JS.API.CONSUMER.DELETE.MESH_EVENTS.reader_inbox", "$JS.API.CONSUMER.RESET.MESH_EVENTS.reader_inbox",
		"$JS.API.CONSUMER.LIST.MESH_EVENTS", "$JS.API.STREAM.INFO.MESH_EVENTS", "$JS.API.STREAM.MSG.GET.MESH_EVENTS", "$JS.API.DIRECT.GET.MESH_EVENTS",
	} {
		if l, ok := g.Allows(s, true); ok {
			t.Errorf("may publish %q by %q", s, l.Subject)
		}
	}
	for _, s := range []string{"$JS.ACK.MESH_EVENTS.reader_inbox.2.17.9.1795438000000000000.3", "$JS.ACK._.ab12cd34.MESH_EVENTS.reader_inbox.2.17.9.1795438000000000000.3"} {
		if _, ok := g.Allows(s, true); !ok {
			t.Errorf("may not acknowledge by %q", s)
		}
	}
}

// A name that is no plain label could make the consumer another's, or a pattern.
func TestCompileRefusesDurableNames(t *testing.T) {
	for _, name := range []string{"", "*", ">", "in_box", "in.box", "Inbox", "a b", "writer_inbox", "-a", strings.Repeat("a", 64)} {
		if g, err := authcallout.Compile(subject.Default(), durable(name)); denial.Of(err) != denial.BadInput {
			t.Errorf("durable %q: got %d lines, %v, want %v", name, len(g.Publish), err, denial.BadInput)
		}
	}
}

func TestGrammarRefusesForeignConsumers(t *testing.T) {
	pub := func(s string) error {
		_, err := authcallout.Finish(subject.Default(), durable("inbox"), authcallout.Grant{Publish: []authcallout.Line{{Subject: s}}})
		return err
	}
	for _, s := range append(subject.Acks("reader_inbox"), subject.Pull("reader_inbox"), subject.ConsumerInfo("reader_inbox")) {
		if err := pub(s); err != nil {
			t.Errorf("%q: got %v, want it let through", s, err)
		}
	}
	for _, s := range append(subject.Acks("*"),
		subject.Acks("writer_inbox")[0], subject.Acks("writer_inbox")[1], subject.Pull("*"), subject.Pull("writer_inbox"), subject.ConsumerInfo("*"), subject.ConsumerInfo("reader_other"),
		"$JS.API.CONSUMER.MSG.NEXT.*.reader_inbox", "$JS.API.CONSUMER.*.NEXT.MESH_EVENTS.reader_inbox", "$JS.API.CONSUMER.DELETE.MESH_EVENTS.reader_inbox", "$JS.API.*.INFO.MESH_EVENTS.reader_inbox",
		"$JS.ACK.*.reader_inbox.*.*.*.*.*", "$JS.ACK.MESH_EVENTS.reader_inbox.>", "$JS.ACK.MESH_EVENTS.reader_inbox.*.*.*.*", "$JS.*.MESH_EVENTS.reader_inbox.*.*.*.*.*",
		"$JS.ACK.*.*.*.reader_inbox.*.*.*.*.*", "$JS.ACK.a.b.MESH_EVENTS.reader_inbox.*.*.*.*.*", "$JS.FC.MESH_EVENTS.reader_inbox.*.*.*.*.*",
	) {
		if pub(s) == nil {
			t.Errorf("the grammar lets %q be published", s)
		}
	}
}
