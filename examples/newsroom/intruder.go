package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/meshclient"
)

// intruder is an agent that somebody has taken over: it has its own keys and rights,
// `publish:gossip` and `subscribe:gossip`, and tries what they are not for, with the
// mesh's client and with a NATS connection of its own. It fails if anything succeeds.
func intruder(ctx context.Context) error {
	mesh, err := join(ctx, "intruder")
	if err != nil {
		return err
	}
	defer mesh.Close() //nolint:errcheck // it has done what it came for
	files, err := openFiles(filepath.Join(os.Getenv("SEALMESH_MESH"), "agents", "intruder"))
	if err != nil {
		return err
	}
	raw, err := files.connect(nil)
	if err != nil {
		return err
	}
	defer raw.Close()
	i := &intrusion{raw: raw}

	_, err = mesh.Call(ctx, "read:logs", []byte("app.log"))
	i.refused("calls what it has no right to", string(denial.Of(err)))
	_, err = mesh.Delegate(ctx, "writer", meshclient.Grant{Scopes: []string{"read:logs"}, For: time.Minute})
	i.refused("lends what it does not have", string(denial.Of(err)))
	i.publish("calls it all the same, past its client", "mesh.call.intruder.read.logs")
	i.publish("speaks as the writer", "mesh.event.writer.report-done")
	i.publish("answers in the reader's name", "mesh.reply.reader.orchestrator.77777777.x")
	i.publish("writes into the registry", "$KV.MESH_AGENTS.intruder")
	i.publish("reads the sessions", "$JS.API.STREAM.MSG.GET.KV_MESH_SESSIONS")
	i.publish("asks the server who is connected", "$SYS.REQ.SERVER.PING.CONNZ")
	i.subscribe("listens to everything", ">")
	i.subscribe("listens to others' calls", "mesh.call.*.read.logs")

	other, err := nkeys.CreateUser()
	if err != nil {
		return err
	}
	nc, err := files.connect(other)
	if err == nil {
		nc.Close()
	}
	i.refused("comes with its certificate and another key", short(err))

	// What the broker lets it do is up to those who hear it: they refuse it, and say so.
	if err := raw.Publish("mesh.event.intruder.gossip", []byte("unsigned")); err != nil {
		return err
	}
	say("intruder", "attempt: an event that nobody signed: sent, look at who heard it")
	if err := i.replay(ctx, func() error { return mesh.Publish(ctx, "gossip", []byte("once")) }); err != nil {
		return err
	}
	say("intruder", "attempt: an event a second time: sent, look at who heard it")
	if i.through > 0 {
		return fmt.Errorf("%d attempts were not refused", i.through)
	}
	say("intruder", "all attempts were refused")
	return nil
}

// intrusion counts what came through.
type intrusion struct {
	raw     *nats.Conn
	through int
}

func (i *intrusion) refused(what, why string) {
	if why == "" {
		i.through++
		say("intruder", "attempt: %s: NOT REFUSED", what)
		return
	}
	say("intruder", "attempt: %s: refused: %s", what, why)
}

// told is what the server says of the last thing that was asked of it. It says nothing
// of what it takes.
func (i *intrusion) told() string {
	if err := i.raw.Flush(); err != nil {
		return short(err)
	}
	err := i.raw.LastError()
	if !errors.Is(err, nats.ErrPermissionViolation) {
		return ""
	}
	return "permissions violation"
}

func (i *intrusion) publish(what, subject string) { i.try(what, subject, false) }

func (i *intrusion) subscribe(what, subject string) { i.try(what, subject, true) }

func (i *intrusion) try(what, subject string, listen bool) {
	before := i.raw.LastError()
	var err error
	if listen {
		_, err = i.raw.SubscribeSync(subject)
	} else {
		err = i.raw.Publish(subject, []byte("x"))
	}
	if err == nil && i.told() != "" && i.raw.LastError() != before && strings.Contains(i.raw.LastError().Error(), subject) {
		err = nats.ErrPermissionViolation
	}
	i.refused(what, short(err))
}

// replay sends the bytes of a message of its own once more, as it heard them.
func (i *intrusion) replay(ctx context.Context, publish func() error) error {
	sub, err := i.raw.SubscribeSync("mesh.event.*.gossip")
	if err != nil {
		return err
	}
	if err := i.raw.Flush(); err != nil {
		return err
	}
	if err := publish(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return err
		}
		if m.Header.Get("Mesh-Signature") != "" {
			again := &nats.Msg{Subject: m.Subject, Header: m.Header, Data: m.Data}
			return errors.Join(i.raw.PublishMsg(again), i.raw.Flush())
		}
	}
}

func short(err error) string {
	if err == nil {
		return ""
	}
	return strings.ToLower(strings.TrimPrefix(err.Error(), "nats: "))
}

// files are what an agent's directory has for clients that are not the mesh's own.
type files struct {
	URL   string `json:"url"`
	NKey  string `json:"nkey"`
	Cert  string `json:"cert"`
	Key   string `json:"key"`
	CA    string `json:"ca"`
	Inbox string `json:"inbox_prefix"`
}

func openFiles(dir string) (f files, err error) {
	text, err := os.ReadFile(filepath.Join(dir, "nats-context.json"))
	if err == nil {
		err = json.Unmarshal(text, &f)
	}
	// The directory may be mounted elsewhere than it was made.
	for _, p := range []*string{&f.NKey, &f.Cert, &f.Key, &f.CA} {
		*p = filepath.Join(dir, filepath.Base(*p))
	}
	return f, err
}

// connect opens a plain NATS connection, with another key than the agent's if there is
// one.
func (f files) connect(other nkeys.KeyPair) (*nats.Conn, error) {
	cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	key, err := nats.NkeyOptionFromSeed(f.NKey)
	if err != nil {
		return nil, err
	}
	if other != nil {
		pub, err := other.PublicKey()
		if err != nil {
			return nil, err
		}
		key = nats.Nkey(pub, other.Sign)
	}
	return nats.Connect(f.URL, key, nats.Secure(&tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: roots, MinVersion: tls.VersionTLS13}),
		nats.CustomInboxPrefix(f.Inbox), nats.Timeout(12*time.Second), nats.NoReconnect(),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
}
