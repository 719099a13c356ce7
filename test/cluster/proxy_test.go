//go:build unix

package cluster_test

import (
	"net"
	"sync"
	"testing"
)

// proxy carries TCP connections to the first of its targets that takes them. It
// can stand still as a network does that loses everything: connections stay open
// and nothing arrives, until it goes on and all arrives after all.
type proxy struct {
	listener net.Listener
	targets  []string

	mu    sync.Mutex
	still bool
	over  bool
	moved *sync.Cond
	conns map[net.Conn]bool
	wg    sync.WaitGroup
}

func newProxy(t testing.TB, addr string, targets ...string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{listener: l, targets: targets, conns: map[net.Conn]bool{}}
	p.moved = sync.NewCond(&p.mu)
	p.wg.Go(p.serve)
	t.Cleanup(p.close)
	return p
}

func (p *proxy) addr() string { return p.listener.Addr().String() }

func (p *proxy) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.still, p.over = false, true
	for c := range p.conns {
		_ = c.Close()
	}
	p.mu.Unlock()
	p.moved.Broadcast()
	p.wg.Wait()
}

// stand has nothing come through any more, or everything again.
func (p *proxy) stand(still bool) {
	p.mu.Lock()
	p.still = still
	p.mu.Unlock()
	p.moved.Broadcast()
}

// wait returns when something may come through.
func (p *proxy) wait() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.still {
		p.moved.Wait()
	}
}

func (p *proxy) serve() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.keep(c)
		p.wg.Go(func() { p.carry(c) })
	}
}

func (p *proxy) keep(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = true
	if p.over {
		_ = c.Close()
	}
}

func (p *proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = c.Close()
	delete(p.conns, c)
}

func (p *proxy) carry(in net.Conn) {
	defer p.drop(in)
	p.wait()
	var out net.Conn
	for _, t := range p.targets {
		var err error
		if out, err = net.Dial("tcp", t); err == nil {
			break
		}
	}
	if out == nil {
		return
	}
	p.keep(out)
	defer p.drop(out)
	var wg sync.WaitGroup
	wg.Go(func() { p.pump(out, in) })
	p.pump(in, out)
	wg.Wait()
}

// pump copies one direction and closes both ends when it ends.
func (p *proxy) pump(to, from net.Conn) {
	defer to.Close()   //nolint:errcheck // it may be gone
	defer from.Close() //nolint:errcheck // likewise
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		p.wait()
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
