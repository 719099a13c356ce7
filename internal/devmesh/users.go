package devmesh

import (
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/natsconf"
)

// AsService connects as the control plane's user in CTRL does, which may say
// anything there: as a broker that cannot be trusted, or whoever stole the key.
func AsService(dir *meshdir.Mesh, url string, opts ...nats.Option) (*nats.Conn, error) {
	return as(dir, dir.ServiceKey, url, opts)
}

// AsSystem connects as the control plane's user in SYS does.
func AsSystem(dir *meshdir.Mesh, url string, opts ...nats.Option) (*nats.Conn, error) {
	return as(dir, dir.SystemKey, url, append([]nats.Option{nats.CustomInboxPrefix(natsconf.SystemInbox)}, opts...))
}

func as(dir *meshdir.Mesh, read func() (nkeys.KeyPair, error), url string, opts []nats.Option) (*nats.Conn, error) {
	key, err := read()
	if err != nil {
		return nil, err
	}
	pub, err := key.PublicKey()
	if err != nil {
		return nil, err
	}
	source, err := dir.ControlSource()
	if err != nil {
		return nil, err
	}
	return nats.Connect(url, append([]nats.Option{nats.Nkey(pub, key.Sign), nats.Secure(source.ClientTLS(""))}, opts...)...)
}
