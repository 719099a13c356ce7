package demo

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/internal/natsconf"
	"github.com/sealmesh/sealmesh/internal/natsserver"
	"github.com/sealmesh/sealmesh/pki"
)

// The cluster of the route step. The password is known to whoever attacks: it is
// the certificate that is put to the test.
const (
	clusterName = "mesh"
	clusterUser = "routes"
)

var clusterPassword = rand.Text()

// member starts one more nats-server of the mesh, from the configuration that
// the mesh writes for its servers, with a route listener.
func (s *stage) member(ctx context.Context) (*natsserver.Server, error) {
	conf, err := s.mesh.Dir.NATSConfig()
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(s.mesh.Dir.Dir, "..", "member")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	// Both routes are its own, so it has none but those that others open.
	secret, err := natsconf.ClusterSecret(clusterUser, clusterPassword, []string{addr, strings.Replace(addr, "127.0.0.1", "localhost", 1)})
	if err != nil {
		return nil, err
	}
	if err := pki.WriteSecret(filepath.Join(dir, "cluster.conf"), secret); err != nil {
		return nil, err
	}
	conf.Name, conf.Listen, conf.StoreDir = "nats-2", "127.0.0.1:-1", filepath.Join(dir, "jetstream")
	conf.Cluster = &natsconf.Cluster{
		Name: clusterName, Listen: addr, Secret: "cluster.conf",
		TLS: natsconf.TLS{Cert: conf.TLS.Cert, Key: conf.TLS.Key, CA: filepath.Join(s.mesh.Dir.Dir, "server", "ca.crt")},
	}
	text, err := conf.Text()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "nats-server.conf")
	if err := pki.WriteFile(file, text); err != nil {
		return nil, err
	}
	return natsserver.Start(ctx, natsserver.Config{File: file, Log: zerolog.New(s.journal)})
}

// freeAddr finds a port that nobody listens on. The server cannot choose one
// itself: it must know its own route to recognise it.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// infraCertificate is that of the mesh's own nats-server.
func (s *stage) infraCertificate() (*tls.Certificate, error) {
	conf, err := s.mesh.Dir.NATSConfig()
	if err != nil {
		return nil, err
	}
	key, err := pki.ReadSecret(conf.TLS.Key)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	return keyPair(conf.TLS.Cert, key)
}

// startStock runs a server that nobody in the mesh configured: it believes any
// certificate, shows its own whatever the other side asks for, knows the
// password and dials the route.
func startStock(route string, cert *tls.Certificate) (*server.Server, error) {
	srv, err := server.NewServer(&server.Options{
		ServerName: "stranger", Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true,
		Routes: []*url.URL{{Scheme: "nats-route", Host: route, User: url.UserPassword(clusterUser, clusterPassword)}},
		Cluster: server.ClusterOpts{
			Name: clusterName, Host: "127.0.0.1", Port: -1, TLSTimeout: 5,
			TLSConfig: &tls.Config{
				MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*cert},
				InsecureSkipVerify:   true, // the attacker's choice, and nobody's loss but its own
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil },
			},
		},
	})
	if err != nil {
		return nil, err
	}
	srv.Start()
	return srv, nil
}
