package natsserver

import (
	"crypto/tls"
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/conf"
	"github.com/nats-io/nats-server/v2/server"

	"github.com/sealmesh/sealmesh/pki"
)

// follow makes the listeners of the options read their certificate, key and CA file
// at each handshake, where a stock nats-server reads them when it starts and when it
// is reloaded. A reload cuts the connections of every agent, so a certificate that
// is renewed would cost more than it is worth.
func follow(opts *server.Options, file string) error {
	all, err := conf.ParseFile(file)
	if err != nil {
		return fmt.Errorf("natsserver: configuration %q: %w", file, err)
	}
	cluster, _ := all["cluster"].(map[string]any)
	for _, l := range []struct {
		block any
		tls   **tls.Config
	}{{all["tls"], &opts.TLSConfig}, {cluster["tls"], &opts.Cluster.TLSConfig}} {
		if *l.tls == nil {
			continue
		}
		block, ok := l.block.(map[string]any)
		if !ok {
			continue
		}
		cert, key, ca := text(block["cert_file"]), text(block["key_file"]), text(block["ca_file"])
		if cert == "" || key == "" || ca == "" {
			continue // something else than what sealmesh init writes: as nats-server has it
		}
		source, err := pki.NewSource(cert, key, ca, time.Now)
		if err != nil {
			return fmt.Errorf("natsserver: %w", err)
		}
		*l.tls = following(*l.tls, source)
	}
	return nil
}

func text(v any) string {
	s, _ := v.(string)
	return s
}

// following is a configuration with the files of a source. What the file was first
// stays in it for whoever looks at it, as nats-server's monitoring does.
func following(c *tls.Config, source *pki.Source) *tls.Config {
	base := c.Clone()
	base.Certificates = nil // else they count for clients that dial an address
	base.GetCertificate = source.ServerTLS().GetCertificate
	out := c.Clone()
	out.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		now := base.Clone()
		now.ClientCAs = source.Roots()
		return now, nil
	}
	// A route is dialled by the same configuration. Whom it believes is read anew with
	// the configuration alone.
	out.GetClientCertificate = source.ClientTLS("").GetClientCertificate
	return out
}

// Reload reads the configuration file again, as a stock server does at SIGHUP: every
// agent's connection is cut and admitted anew. Certificates need none.
func (s *Server) Reload() error {
	opts, err := load(s.cfg)
	if err != nil {
		return err
	}
	// nats-server compares the users of before with these by all that they point at, down
	// to the counters of an account in use, without a lock. A difference that it meets
	// first spares that, and is none: only users of JWTs were issued at a time.
	for _, u := range opts.Nkeys {
		u.Issued = time.Now().UnixNano()
	}
	if err := s.srv.ReloadOptions(opts); err != nil {
		return fmt.Errorf("natsserver: reloading %q: %w", s.cfg.File, err)
	}
	return nil
}
