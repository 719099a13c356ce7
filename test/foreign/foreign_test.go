//go:build unix

package foreign_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/test/foreign/clients"
	"github.com/sealmesh/sealmesh/test/stock/process"
)

var programs process.Programs

func TestMain(m *testing.M) {
	flag.Parse()
	if !clients.Wanted() {
		fmt.Fprintln(os.Stderr, "THE FOREIGN CLIENTS WERE LEFT OUT: they are other people's programs; make foreign builds them and runs this")
		os.Exit(m.Run())
	}
	os.Exit(process.Main(m, &programs, process.Sealmesh, process.NATSServer))
}

const domain = "mesh.local"

// world is a stock nats-server, a control plane and some agents.
type world struct {
	*process.Mesh
	t      *testing.T
	server *process.Process
}

func start(t *testing.T) *world {
	t.Helper()
	if !clients.Wanted() {
		t.Skip("left out: make foreign runs it")
	}
	t.Parallel()
	w := &world{Mesh: process.NewMesh(t, programs), t: t}
	w.Init()
	w.server = w.Server(w.Conf())
	w.Plane().Await(process.PlaneUp)
	// Two stock clients, and agents of the mesh on the other side.
	for _, id := range []string{"cli", "js"} {
		w.Must("agent", "add", id, "--enroll", "--stock", "--heartbeat", "none", "--call", "read:logs", "--publish", "news", "--subscribe", "news",
			"--plain-publish", "legacy.orders", "--plain-subscribe", "legacy.orders", "--plain-subscribe", "legacy.status")
	}
	w.Must("agent", "add", "reader", "--enroll", "--handle", "read:logs", "--subscribe", "news")
	w.Must("agent", "add", "press", "--enroll", "--publish", "news")
	return w
}

func (w *world) key(id string) string {
	w.t.Helper()
	var doc struct{ Instances []struct{ NKey string } }
	w.Document(&doc, "agent", "show", id)
	return doc.Instances[0].NKey
}

// client is one of the two as the tests drive it.
type client struct {
	id      string
	listen  func(w *world, dir, subject string) (p *process.Process, ready string) // goes on
	publish func(w *world, dir, subject, text string) *process.Process
	request func(w *world, dir, subject, text string) *process.Process
	heard   func(subject, text string) string // what listen prints of a message
	refused string                            // what stands in its output where the server refuses it
	away    string                            // what listen prints when its connection is gone
}

var both = []client{
	{
		id: "cli",
		listen: func(w *world, dir, subject string) (*process.Process, string) {
			return clients.NATS(w.t, dir, "sub", subject), "Subscribing on "
		},
		publish: func(w *world, dir, subject, text string) *process.Process {
			return clients.NATS(w.t, dir, "pub", subject, text)
		},
		request: func(w *world, dir, subject, text string) *process.Process {
			return clients.NATS(w.t, dir, "request", "--timeout", "2s", subject, text)
		},
		heard:   func(subject, _ string) string { return `Received on "` + subject + `"` },
		refused: "ermissions",
		away:    "Disconnected",
	},
	{
		id: "js",
		listen: func(w *world, dir, subject string) (*process.Process, string) {
			return clients.Node(w.t, dir, domain, "sub:"+subject, "stay"), `{"subscribed":`
		},
		publish: func(w *world, dir, subject, text string) *process.Process {
			return clients.Node(w.t, dir, domain, "pub:"+subject+"="+text)
		},
		request: func(w *world, dir, subject, text string) *process.Process {
			return clients.Node(w.t, dir, domain, "ask:"+subject+"="+text)
		},
		heard: func(subject, text string) string {
			m, s := quote(subject), quote(text)
			return `{"message":` + m + `,"text":` + s
		},
		refused: "ermissions Violation",
		away:    `"status":"disconnect"`,
	},
}

func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// said waits until a program has said something, on whichever output.
func said(t *testing.T, p *process.Process, text string) {
	t.Helper()
	for end := time.Now().Add(process.Soon); ; time.Sleep(10 * time.Millisecond) {
		if strings.Contains(p.Stdout.String()+p.Stderr.String(), text) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("never said %q:\n%s\n%s", text, p.Stdout.String(), p.Stderr.String())
		}
	}
}

func each(t *testing.T, f func(w *world, c client)) {
	t.Helper()
	for _, c := range both {
		t.Run(c.id, func(t *testing.T) { f(start(t), c) })
	}
}

// What an agent may do a stock client does, by the files in the agent's directory as
// they are; it reads what is signed, and what it may not do it is told.
func TestHeldToItsGrant(t *testing.T) {
	each(t, func(w *world, c client) {
		dir := w.Agent(c.id)
		orders, ready := c.listen(w, dir, "legacy.orders")
		said(w.t, orders, ready)
		if code := c.publish(w, dir, "legacy.orders", "ten").Wait(process.Soon); code != 0 {
			w.t.Errorf("publishing what it may: exit code %d", code)
		}
		said(w.t, orders, c.heard("legacy.orders", "ten"))

		news, ready := c.listen(w, dir, "mesh.event.*.news")
		said(w.t, news, ready)
		w.Must("publish", "news", "all is well", "--as", "press")
		said(w.t, news, c.heard("mesh.event.press.news", "all is well"))
		if c.id == "js" { // which verifies by itself what it is given
			said(w.t, news, `"signed":{"from":"press","key":"`+w.key("press")+`","good":true}`)
		} else {
			for _, readable := range []string{"Mesh-Envelope: v=1;from=press;key=" + w.key("press"), "Mesh-Signature: ed25519:", "all is well"} {
				said(w.t, news, readable)
			}
		}

		for _, subject := range []string{
			"mesh.event.press.news", "mesh.call.reader.read.logs", "mesh.event." + c.id + ".other", "$JS.API.STREAM.LIST", "$KV.MESH_AGENTS." + c.id,
			"$SYS.REQ.SERVER.PING", "_INBOX_press_77777777.x", "legacy.status", "mesh.feed.tick",
		} {
			said(w.t, c.publish(w, dir, subject, "x"), c.refused)
		}
		for _, subject := range []string{">", "mesh.>", "mesh.call.*.read.logs", "mesh.event.*.other", "_INBOX.>", "$SYS.>", "$KV.>", "legacy.secret"} {
			p, _ := c.listen(w, dir, subject)
			said(w.t, p, c.refused)
		}
	})
}

// Who does not sign is let through by the broker where it may speak, and believed by
// nobody.
func TestUnsigned(t *testing.T) {
	each(t, func(w *world, c client) {
		dir := w.Agent(c.id)
		handler := w.Run("handle", "read:logs", "--as", "reader", "--", "cat")
		handler.AwaitLog(`"message":"handling"`)
		fan := w.Run("subscribe", "news", "--as", "reader")
		fan.AwaitLog(`"message":"subscribed"`)
		if code := c.publish(w, dir, "mesh.event."+c.id+".news", "forged").Wait(process.Soon); code != 0 {
			w.t.Errorf("publishing on its own subject: exit code %d", code)
		}
		said(w.t, fan, "refused: event news of "+c.id+": bad-envelope (not verified)")
		w.Must("publish", "news", "signed", "--as", "press")
		fan.Await("signed")
		if strings.Contains(fan.Stdout.String(), "forged") {
			w.t.Error("an unsigned event was delivered")
		}
		asked := c.request(w, dir, "mesh.call."+c.id+".read.logs", "secret")
		said(w.t, handler, "refused: call read:logs of "+c.id+": bad-envelope (not verified)")
		asked.Wait(process.Soon)
		if strings.Contains(asked.Stdout.String(), "secret") && c.id == "js" {
			w.t.Errorf("an unsigned call was answered:\n%s", asked.Stdout.String())
		}
	})
}

// A stock client comes back after its server was away, and does not once it is revoked.
func TestRestartAndRevocation(t *testing.T) {
	each(t, func(w *world, c client) {
		dir := w.Agent(c.id)
		p, ready := c.listen(w, dir, "legacy.orders")
		said(w.t, p, ready)
		w.server.Terminate(process.Soon)
		w.server = w.Server(w.Conf())
		w.Eventually(process.Soon, "status")
		// It has to have subscribed again: published until it hears.
		for end := time.Now().Add(process.Soon); !strings.Contains(p.Stdout.String(), c.heard("legacy.orders", "back")); {
			if time.Now().After(end) {
				w.t.Fatalf("it did not come back:\n%s\n%s", p.Stdout.String(), p.Stderr.String())
			}
			c.publish(w, dir, "legacy.orders", "back").Wait(process.Soon)
		}
		before := strings.Count(p.Stdout.String()+p.Stderr.String(), c.away)
		// The server of before is waited for until it was silent for long enough: it may
		// have been cut off, and not be gone.
		if r := w.Do("agent", "revoke", c.id, "--reason", "a test"); r.Code != 0 && r.Code != 4 {
			w.t.Fatalf("revoke: exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
		for end := time.Now().Add(5 * time.Second); strings.Count(p.Stdout.String()+p.Stderr.String(), c.away) == before && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
			select {
			case <-p.Done():
				return // it gave up at once
			default:
			}
		}
		if strings.Count(p.Stdout.String()+p.Stderr.String(), c.away) == before {
			w.t.Errorf("its connection was not closed:\n%s\n%s", p.Stdout.String(), p.Stderr.String())
		}
		denied(w, c, dir, "uthorization Violation")
		p.Kill() // told not to give up, it goes on trying
	})
}

func denied(w *world, c client, dir, why string) {
	w.t.Helper()
	p := c.publish(w, dir, "legacy.orders", "x")
	said(w.t, p, why)
	if code := p.Wait(process.Soon); code == 0 {
		w.t.Error("it was let in")
	}
}

// Nobody is let in by half of an identity, or by halves of two.
func TestHalfAnIdentity(t *testing.T) {
	each(t, func(w *world, c client) {
		other := w.Agent("press")
		for name, half := range map[string]struct {
			change func(context map[string]string)
			why    string
		}{
			"another agent's certificate": {func(f map[string]string) {
				f["cert"], f["key"] = filepath.Join(other, "tls.crt"), filepath.Join(other, "tls.key")
			}, "uthorization Violation"},
			"another agent's nkey": {func(f map[string]string) { f["nkey"] = filepath.Join(other, "agent.nk") }, "uthorization Violation"},
			"no certificate":       {func(f map[string]string) { f["cert"], f["key"] = "", "" }, ""},
		} {
			dir := w.t.TempDir()
			b, err := os.ReadFile(filepath.Join(w.Agent(c.id), "nats-context.json"))
			if err != nil {
				w.t.Fatal(err)
			}
			fields := map[string]string{}
			if err := json.Unmarshal(b, &fields); err != nil {
				w.t.Fatal(err)
			}
			half.change(fields)
			if b, err = json.Marshal(fields); err != nil {
				w.t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "nats-context.json"), b, 0o600); err != nil {
				w.t.Fatal(err)
			}
			w.t.Log(name)
			denied(w, c, dir, half.why)
		}
	})
}
