//go:build unix

package stock_test

// The foreign client: nats.go and what the nats CLI reads of a context file. It
// must not import anything of this module.

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// cliContext has the fields of a context file of the nats CLI, by its own names
// (package natscontext of jsm.go).
type cliContext struct {
	Name          string `json:"name"`
	Description   string `json:"description"`
	URL           string `json:"url"`
	SOCKSProxy    string `json:"socks_proxy"`
	Token         string `json:"token"`
	User          string `json:"user"`
	Password      string `json:"password"`
	Creds         string `json:"creds"`
	NKey          string `json:"nkey"`
	Cert          string `json:"cert"`
	Key           string `json:"key"`
	CA            string `json:"ca"`
	NSC           string `json:"nsc"`
	JSDomain      string `json:"jetstream_domain"`
	JSAPIPrefix   string `json:"jetstream_api_prefix"`
	JSEventPrefix string `json:"jetstream_event_prefix"`
	InboxPrefix   string `json:"inbox_prefix"`
	UserJWT       string `json:"user_jwt"`
	ColorScheme   string `json:"color_scheme"`
	TLSFirst      bool   `json:"tls_first"`
}

// readContext is stricter than the nats CLI, which ignores a field that it does
// not know, and with it what somebody meant to say.
func readContext(t *testing.T, file string) cliContext {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var c cliContext
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&c); err != nil {
		t.Fatalf("%s is no context of the nats CLI: %v\n%s", file, err, b)
	}
	return c
}

// options are those that the nats CLI makes of a context.
func (c cliContext) options(t *testing.T) []nats.Option {
	t.Helper()
	var opts []nats.Option
	if c.NKey != "" {
		key, err := nats.NkeyOptionFromSeed(c.NKey)
		if err != nil {
			t.Fatal(err)
		}
		opts = append(opts, key)
	}
	if c.Cert != "" {
		opts = append(opts, nats.ClientCert(c.Cert, c.Key))
	}
	if c.CA != "" {
		opts = append(opts, nats.RootCAs(c.CA))
	}
	if c.InboxPrefix != "" {
		opts = append(opts, nats.CustomInboxPrefix(c.InboxPrefix))
	}
	// The default of two seconds is also when nats.go gives up by itself.
	return append(opts, nats.Timeout(10*time.Second))
}

// client is a connection that remembers what the server refused.
type client struct {
	*nats.Conn
	t *testing.T

	mu      sync.Mutex
	refused map[string]int // by probe
	other   []error
	more    chan struct{}
}

func dial(t *testing.T, c cliContext, extra ...nats.Option) *client {
	t.Helper()
	cl := &client{t: t, refused: map[string]int{}, more: make(chan struct{})}
	nc, err := nats.Connect(c.URL, append(append(c.options(t), nats.ErrorHandler(cl.onError)), extra...)...)
	if err != nil {
		t.Fatalf("connecting to %s: %v", c.URL, err)
	}
	t.Cleanup(nc.Close)
	cl.Conn = nc
	return cl
}

var violation = regexp.MustCompile(`Permissions Violation for (Publish with Reply of|Publish to|Subscription to) "([^"]*)"(?: using queue "([^"]*)")?`)

func (c *client) onError(_ *nats.Conn, _ *nats.Subscription, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := violation.FindStringSubmatch(err.Error())
	switch {
	case m == nil || !errors.Is(err, nats.ErrPermissionViolation):
		c.other = append(c.other, err)
	case m[1] == "Subscription to":
		c.refused[probe{m[2], m[3], true}.String()]++
	case m[1] == "Publish to":
		c.refused[probe{m[2], "", false}.String()]++
	default:
		c.refused["reply "+m[2]]++
	}
	close(c.more)
	c.more = make(chan struct{})
}

// probe is one thing to try.
type probe struct {
	subject, queue string
	subscribe      bool
}

func (p probe) String() string {
	if !p.subscribe {
		return "publish " + p.subject
	}
	return strings.TrimRight("subscribe "+p.subject+" "+p.queue, " ")
}

// try does it, without asking whether it may.
func (c *client) try(p probe, payload string) {
	c.t.Helper()
	var err error
	switch {
	case !p.subscribe:
		err = c.Publish(p.subject, []byte(payload))
	case p.queue != "":
		_, err = c.QueueSubscribe(p.subject, p.queue, func(*nats.Msg) {})
	default:
		_, err = c.Subscribe(p.subject, func(*nats.Msg) {})
	}
	if err != nil {
		c.t.Fatalf("%s: %v", p, err)
	}
}

// settle returns what the server refused, by probe. The server works through
// what it receives in order, and so does nats.go with its errors: when the last
// one's error has come, all have.
func (c *client) settle() map[string]int {
	c.t.Helper()
	last := probe{subject: "the.very.last"}
	c.try(last, "")
	late := time.After(20 * time.Second)
	for {
		c.mu.Lock()
		n, more := c.refused[last.String()], c.more
		if n > 0 {
			out := c.refused
			delete(out, last.String())
			c.refused = map[string]int{}
			for _, err := range c.other {
				c.t.Errorf("connection error: %v", err)
			}
			c.mu.Unlock()
			return out
		}
		c.mu.Unlock()
		select {
		case <-more:
		case <-late:
			c.t.Fatal("the server did not refuse what nobody may do")
		}
	}
}
