package bare

import (
	"context"
	"crypto/tls"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// dialTimeout bounds one attempt; the server waits for its callout meanwhile.
const dialTimeout = 12 * time.Second

// Entry is how somebody tries to connect. Empty fields are the instance's own.
type Entry struct {
	Dir     string
	Key     nkeys.KeyPair                // another nkey
	Sign    func([]byte) ([]byte, error) // another answer to the nonce
	Cert    *tls.Certificate             // another certificate
	NoCert  bool                         // no certificate at all
	Present []string                     // chain digests
}

// Dial opens the connection and nothing else. It does not reconnect by itself.
func (e Entry) Dial(ctx context.Context, opts ...nats.Option) (*nats.Conn, error) {
	d, err := agentdir.Open(e.Dir)
	if err != nil {
		return nil, err
	}
	key := e.Key
	if key == nil {
		if key, err = d.Key(); err != nil {
			return nil, err
		}
	}
	pub, err := key.PublicKey()
	if err != nil {
		return nil, err
	}
	conf, err := e.tls(d)
	if err != nil {
		return nil, err
	}
	sign := e.Sign
	if sign == nil {
		sign = key.Sign
	}
	if len(e.Present) > 0 {
		opts = append(opts, nats.Token("v1:"+strings.Join(e.Present, ",")))
	}
	opts = append([]nats.Option{
		nats.Nkey(pub, sign), nats.Secure(conf), nats.NoReconnect(), nats.Timeout(dialTimeout),
		nats.CustomInboxPrefix(subject.InboxPrefix(d.Info.Agent, d.Info.Instance)),
	}, opts...)
	for {
		nc, err := nats.Connect(d.Info.NATS[0], opts...)
		// The server pings whom it has not admitted after a second, as on a busy
		// machine, and nats.go takes that for a breach of the protocol.
		if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "expected 'PONG', got 'PING'") {
			return nc, err
		}
	}
}

func (e Entry) tls(d *agentdir.Dir) (*tls.Config, error) {
	source, err := d.Source()
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(d.Info.NATS[0])
	if err != nil {
		return nil, err
	}
	conf := source.ClientTLS(u.Hostname())
	switch {
	case e.NoCert:
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }
	case e.Cert != nil:
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return e.Cert, nil }
	}
	return conf, nil
}
