package replay_test

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/denial"
)

// proxy stands between an agent and the server. It can swallow what the server
// says: what the agent says still arrives.
type proxy struct {
	addr    string
	swallow atomic.Bool
	mu      sync.Mutex
	open    []net.Conn
}

func newProxy(t *testing.T, server string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: l.Addr().String()}
	t.Cleanup(func() {
		l.Close() //nolint:errcheck // nothing comes of it
		p.cut()
	})
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", server)
			if err != nil {
				client.Close() //nolint:errcheck // the agent sees it
				continue
			}
			p.mu.Lock()
			p.open = append(p.open, client, up)
			p.mu.Unlock()
			go io.Copy(up, client) //nolint:errcheck // it ends with the connection
			go p.back(client, up)
		}
	}()
	return p
}

func (p *proxy) back(client, server net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := server.Read(buf)
		if err != nil {
			return
		}
		if p.swallow.Load() {
			continue
		}
		if _, err := client.Write(buf[:n]); err != nil {
			return
		}
	}
}

// cut ends all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.open {
		c.Close() //nolint:errcheck // likewise
	}
	p.open = nil
}

// The nonce is written, and the answer to that gets lost. Whether this was the
// first use is not known then: the call is refused, the write is not repeated, and
// no copy is let in later. The sender's next call works.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	w, scope := inShared(t, "lost")
	p := newProxy(t, w.dev.Server.URL()[len("tls://"):])
	var lose atomic.Bool
	one := receive(t, w.reader, scope, setup{
		opts: []nats.Option{func(o *nats.Options) error { o.Servers, o.Url = []string{"tls://" + p.addr}, ""; return nil }},
		conn: func(x *line) func() *nats.Conn {
			return func() *nats.Conn {
				if lose.Swap(false) {
					p.swallow.Store(true) // from the moment of the write on
				}
				return x.Conn
			}
		},
	})
	writer := dial(t, w.writer)
	writer.send(t, writer.sign(t, scope, w.token))
	one.expect(t, "a call before", accepted)
	lose.Store(true)
	call := writer.sign(t, scope, w.token)
	writer.send(t, call)
	one.expect(t, "the call whose burn is not answered", denial.ReplayUnavailable)

	// It comes back by itself, and knows the message.
	p.swallow.Store(false)
	p.cut()
	eventually(t, "the receiver's connection", func() bool { return one.IsConnected() && one.FlushTimeout(wait) == nil })
	writer.send(t, call)
	one.expect(t, "a copy", denial.Replayed)
	other := receive(t, w.reader, scope, setup{})
	one.leave(t)
	writer.send(t, call)
	other.expect(t, "a copy elsewhere: the write was made, once", denial.Replayed)
	writer.send(t, writer.sign(t, scope, w.token))
	other.expect(t, "the sender's own next call", accepted)
	ran(t, 2, one, other)
}
