package meshclient_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/meshclient"
	"github.com/sealmesh/sealmesh/meshclient/meshtest"
)

// inbox keeps what a subscription was given.
type inbox struct {
	mu     sync.Mutex
	events []meshclient.Event
}

func (b *inbox) take(_ context.Context, e *meshclient.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, *e)
}

func (b *inbox) len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.events)
}

func (b *inbox) texts() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for _, e := range b.events {
		out = append(out, string(e.Data))
	}
	return out
}

func subscribe(t *testing.T, m *meshclient.Mesh, topic string, fn func(context.Context, *meshclient.Event), opts ...meshclient.SubscribeOption) {
	t.Helper()
	if err := m.Subscribe(topic, fn, opts...); err != nil {
		t.Fatal(err)
	}
}

func publish(t *testing.T, m *meshclient.Mesh, topic, text string) {
	t.Helper()
	if err := m.Publish(within(t, 20*time.Second), topic, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

// A subscriber that was away gets everything that was published meanwhile, once
// and in order, and goes on from there.
func TestDurableBacklog(t *testing.T) {
	m := meshtest.New(t, options()...)
	m.Topic("news", time.Hour)
	press := m.Agent("press", meshtest.Publishes("news"))
	fan := m.Agent("fan", meshtest.Subscribes("news"))
	var first, second inbox
	subscribe(t, fan, "news", first.take, meshclient.Durable("inbox"))
	publish(t, press, "news", "0")
	eventually(t, "the first event", func() bool { return first.len() == 1 })
	if err := fan.Close(); err != nil {
		t.Fatal(err)
	}
	const n = 50
	var want []string
	for i := 1; i <= n; i++ {
		want = append(want, strconv.Itoa(i))
		publish(t, press, "news", want[i-1])
	}
	fan = m.Instance("fan")
	subscribe(t, fan, "news", second.take, meshclient.Durable("inbox"))
	eventually(t, "the backlog", func() bool { return second.len() >= n })
	publish(t, press, "news", "live")
	want = append(want, "live")
	eventually(t, "a live event", func() bool { return second.len() > n })
	if got := second.texts(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	last := uint64(0)
	for _, e := range second.events {
		if e.Redelivered || e.Sequence <= last || e.From != press.ID() || e.Stored.IsZero() || e.Stored.Sub(e.Sent).Abs() > time.Minute {
			t.Errorf("event %q: sequence %d after %d, stored %s, sent %s, redelivered %v", e.Data, e.Sequence, last, e.Stored, e.Sent, e.Redelivered)
		}
		last = e.Sequence
	}
}

// What a subscription needs, and what is said where it is not there.
func TestDurableRefusals(t *testing.T) {
	m := meshtest.New(t, options()...)
	m.Topic("news", time.Hour)
	fan := m.Agent("fan", meshtest.Subscribes("news", "chat"))
	none := func(context.Context, *meshclient.Event) {}
	d := denied(t, fan.Subscribe("chat", none, meshclient.Durable("inbox")), denial.NotFound)
	if d.Hint != "sealmesh topic add chat" {
		t.Errorf("got hint %q", d.Hint)
	}
	denied(t, fan.Subscribe("other", none, meshclient.Durable("inbox")), denial.ScopeNotHeld)
	for _, name := range []string{"", "In Box", "a.b", "*", "a_b"} {
		if err := fan.Subscribe("news", none, meshclient.Durable(name)); err == nil {
			t.Errorf("the name %q was taken", name)
		}
	}
	subscribe(t, fan, "news", none, meshclient.Durable("inbox"))
	if err := fan.Subscribe("news", none, meshclient.Durable("inbox")); err == nil {
		t.Error("subscribed twice")
	}
}

// What was not worked on comes again, to whichever instance there is, and is no
// replay.
func TestDurableRedelivery(t *testing.T) {
	m := meshtest.New(t, options()...)
	m.Topic("news", time.Hour)
	press := m.Agent("press", meshtest.Publishes("news"))
	fan := m.Agent("fan", meshtest.Subscribes("news"))
	var got inbox
	subscribe(t, fan, "news", func(ctx context.Context, e *meshclient.Event) {
		got.take(ctx, e)
		switch {
		case e.Redelivered:
		case string(e.Data) == "panics":
			panic("no")
		case string(e.Data) == "later":
			e.Retry(50 * time.Millisecond)
		}
	}, meshclient.Durable("inbox"))
	for _, text := range []string{"panics", "later", "fine"} {
		publish(t, press, "news", text)
	}
	eventually(t, "all of it, some twice", func() bool { return got.len() >= 5 })
	publish(t, press, "news", "end")
	eventually(t, "the end", func() bool { return got.len() >= 6 })
	type once struct {
		text        string
		redelivered bool
	}
	count, sequence := map[once]int{}, map[string]uint64{}
	for _, e := range got.events {
		text := string(e.Data)
		count[once{text, e.Redelivered}]++
		if sequence[text] == 0 {
			sequence[text] = e.Sequence
		} else if sequence[text] != e.Sequence {
			t.Errorf("%s came as %d and as %d", text, sequence[text], e.Sequence)
		}
	}
	want := map[once]int{{"panics", false}: 1, {"panics", true}: 1, {"later", false}: 1, {"later", true}: 1, {"fine", false}: 1, {"end", false}: 1}
	if fmt.Sprint(count) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", count, want)
	}
}

// An instance that dies over an event leaves it to another one.
func TestDurableInstanceDies(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for the server's 30 s")
	}
	t.Parallel()
	m := meshtest.New(t, options()...)
	m.Topic("news", time.Hour)
	press := m.Agent("press", meshtest.Publishes("news"))
	fan := m.Agent("fan", meshtest.Subscribes("news"))
	busy, release := make(chan struct{}), make(chan struct{})
	subscribe(t, fan, "news", func(context.Context, *meshclient.Event) {
		close(busy)
		<-release
	}, meshclient.Durable("inbox"))
	publish(t, press, "news", "one")
	<-busy
	fan.Conn().Close() // nothing more is heard of it
	defer close(release)
	other := m.Instance("fan")
	var got inbox
	subscribe(t, other, "news", got.take, meshclient.Durable("inbox"))
	publish(t, press, "news", "two")
	eventually(t, "what came later", func() bool { return got.len() == 1 })
	for end := time.Now().Add(50 * time.Second); got.len() < 2 && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
	}
	if texts := got.texts(); len(texts) != 2 || texts[1] != "one" || !got.events[1].Redelivered {
		t.Errorf("got %v, want the event of the one that died, redelivered", texts)
	}
}

// An agent may think for longer than the server waits for an acknowledgement.
func TestDurableThinksForLong(t *testing.T) {
	if testing.Short() {
		t.Skip("thinks for longer than the server's 30 s")
	}
	t.Parallel()
	m := meshtest.New(t, append(options(), meshtest.Session(20*time.Second))...)
	m.Topic("news", time.Hour)
	press := m.Agent("press", meshtest.Publishes("news"))
	fan := m.Agent("fan", meshtest.Subscribes("news"))
	other := m.Instance("fan")
	var got inbox
	for _, a := range []*meshclient.Mesh{fan, other} {
		subscribe(t, a, "news", func(ctx context.Context, e *meshclient.Event) {
			got.take(ctx, e)
			time.Sleep(40 * time.Second)
		}, meshclient.Durable("inbox"))
	}
	publish(t, press, "news", "one")
	time.Sleep(45 * time.Second)
	if n := got.len(); n != 1 {
		t.Errorf("the event came %d times while it was worked on", n)
	}
	if fan.Rotations()+other.Rotations() < 2 {
		t.Error("no connection was replaced meanwhile")
	}
}

// One topic may be heard live and durably at once, and several topics share one
// durable subscription, which outlives a process that does not know them all yet.
func TestDurableTopicsShareAName(t *testing.T) {
	m := meshtest.New(t, options()...)
	m.Topic("news", time.Hour)
	m.Topic("chat", time.Hour)
	press := m.Agent("press", meshtest.Publishes("news", "chat"))
	fan := m.Agent("fan", meshtest.Subscribes("news", "chat"))
	var live, stored inbox
	subscribe(t, fan, "news", live.take)
	subscribe(t, fan, "news", stored.take, meshclient.Durable("inbox"))
	subscribe(t, fan, "chat", stored.take, meshclient.Durable("inbox"))
	publish(t, press, "news", "n1")
	publish(t, press, "chat", "c1")
	eventually(t, "one event each", func() bool { return live.len() == 1 && stored.len() == 2 })
	if err := fan.Close(); err != nil {
		t.Fatal(err)
	}
	for i := 2; i < 5; i++ {
		publish(t, press, "chat", fmt.Sprint("c", i))
		publish(t, press, "news", fmt.Sprint("n", i))
	}
	fan = m.Instance("fan")
	var news, chat inbox
	subscribe(t, fan, "news", news.take, meshclient.Durable("inbox"))
	eventually(t, "the backlog of one topic", func() bool { return news.len() == 3 })
	subscribe(t, fan, "chat", chat.take, meshclient.Durable("inbox"))
	eventually(t, "that of the other, which was held back", func() bool { return chat.len() == 3 })
	if got := fmt.Sprint(news.texts()); got != "[n2 n3 n4]" {
		t.Errorf("got %s", got)
	}
}

func TestEndDurable(t *testing.T) {
	m := meshtest.New(t, options()...)
	m.Topic("news", time.Hour)
	press := m.Agent("press", meshtest.Publishes("news"))
	fan := m.Agent("fan", meshtest.Subscribes("news"))
	var first, second inbox
	subscribe(t, fan, "news", first.take, meshclient.Durable("inbox"))
	publish(t, press, "news", "1")
	eventually(t, "the first event", func() bool { return first.len() == 1 })
	ctx := within(t, 20*time.Second)
	if err := fan.EndDurable(ctx, "inbox"); err != nil {
		t.Fatal(err)
	}
	publish(t, press, "news", "2")
	subscribe(t, fan, "news", second.take, meshclient.Durable("inbox"))
	publish(t, press, "news", "3")
	eventually(t, "an event after a new beginning", func() bool { return second.len() == 1 })
	if a, b := fmt.Sprint(first.texts()), fmt.Sprint(second.texts()); a != "[1]" || b != "[3]" {
		t.Errorf("got %s and %s, want [1] and [3]", a, b)
	}
	if err := fan.EndDurable(ctx, "other"); err != nil {
		t.Errorf("ending what there is not: %v", err)
	}
}

// A sender that was suspended while its events waited: none of them counts, also
// after it was resumed, and those of others do.
func TestDurableSenderCutMeanwhile(t *testing.T) {
	m := meshtest.New(t, options()...)
	m.Topic("news", time.Hour)
	bad := m.Agent("bad", meshtest.Publishes("news"))
	press := m.Agent("press", meshtest.Publishes("news"))
	fan := m.Agent("fan", meshtest.Subscribes("news"))
	subscribe(t, fan, "news", func(context.Context, *meshclient.Event) {}, meshclient.Durable("inbox"))
	if err := fan.Close(); err != nil {
		t.Fatal(err)
	}
	publish(t, bad, "news", "bad 1")
	publish(t, press, "news", "good 1")
	m.Suspend("bad")
	fan = m.Instance("fan")
	var got inbox
	subscribe(t, fan, "news", got.take, meshclient.Durable("inbox"))
	eventually(t, "the good event", func() bool { return got.len() == 1 })
	m.Resume("bad")
	eventually(t, "the return", func() bool { return bad.Away() == nil })
	publish(t, bad, "news", "bad 2")
	eventually(t, "an event after the return", func() bool { return got.len() == 2 })
	if texts := fmt.Sprint(got.texts()); texts != "[good 1 bad 2]" {
		t.Errorf("got %s, want [good 1 bad 2]", texts)
	}
}

// Connections are replaced while events are stored and read. Nothing is lost,
// nothing comes twice, and they stay in order.
func TestDurableRotation(t *testing.T) {
	t.Parallel()
	m := meshtest.New(t, append(options(), meshtest.Session(8*time.Second))...)
	m.Topic("ticks", time.Hour)
	press := m.Agent("press", meshtest.Publishes("ticks"))
	fan := m.Agent("fan", meshtest.Subscribes("ticks"))
	var got inbox
	subscribe(t, fan, "ticks", got.take, meshclient.Durable("inbox"))
	n := 0
	for end := time.Now().Add(14 * time.Second); time.Now().Before(end); n++ {
		publish(t, press, "ticks", strconv.Itoa(n))
		time.Sleep(time.Duration(n%3) * time.Millisecond)
	}
	eventually(t, "the last event", func() bool { return got.len() >= n })
	time.Sleep(100 * time.Millisecond) // one that came twice would be next
	for i, text := range got.texts() {
		if text != strconv.Itoa(i) || got.events[i].Redelivered {
			t.Fatalf("event %d is %s, redelivered: %v", i, text, got.events[i].Redelivered)
		}
	}
	if got.len() != n || fan.Rotations() < 2 || press.Rotations() < 2 {
		t.Errorf("got %d of %d events over %d and %d rotations", got.len(), n, fan.Rotations(), press.Rotations())
	}
	t.Logf("%d events over %d and %d rotations", n, fan.Rotations(), press.Rotations())
}
