package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"github.com/nats-io/nats.go"

	"github.com/sealmesh/sealmesh/agentid"
)

// sight is what a server says of one connection.
type sight struct {
	open bool
	// sent counts the messages that came from the client. The server's time of the
	// last activity says nothing about a client: it counts what is sent to it too,
	// and the feed goes on towards a host that is long gone.
	sent int64
}

// look asks the server of a connection whether it is open. One whose callout is
// still being answered counts as open. An error says that it could not be found
// out.
func (p *Plane) look(ctx context.Context, c connection, id agentid.ID) (sight, error) {
	if p.sys == nil {
		return sight{}, errNoSystem
	}
	ctx, cancel := context.WithTimeout(ctx, kickTimeout)
	defer cancel()
	body := fmt.Appendf(nil, `{"auth":true,"cid":%d}`, c.client)
	m, err := p.sys.RequestWithContext(ctx, "$SYS.REQ.SERVER."+c.server+".CONNZ", body)
	if errors.Is(err, nats.ErrNoResponders) && !p.servers.known(c.server) {
		return sight{}, nil // a server that is gone has no connections
	}
	if err != nil {
		return sight{}, fmt.Errorf("controlplane: asking %s for a connection: %w", c.server, err)
	}
	s, err := parseSight(m.Data, c, id)
	if err != nil {
		return sight{}, fmt.Errorf("controlplane: asking %s for a connection: %w", c.server, err)
	}
	return s, nil
}

func parseSight(data []byte, c connection, id agentid.ID) (sight, error) {
	a, err := parseAnswer(data)
	switch {
	case err != nil:
		return sight{}, err
	case a.Server.ID != c.server:
		return sight{}, errors.New("another server answered")
	case a.Error != nil:
		return sight{}, fmt.Errorf("refused: %.200q", a.Error.Text)
	}
	var z struct {
		Connections *[]struct {
			ID   uint64 `json:"cid"`
			User string `json:"authorized_user"`
			Sent int64  `json:"in_msgs"`
		} `json:"connections"`
	}
	if err := json.Unmarshal(a.Data, &z); err != nil {
		return sight{}, err
	}
	if z.Connections == nil {
		return sight{}, errors.New("no connections listed")
	}
	for _, l := range *z.Connections {
		// No name: it is being admitted.
		if l.ID == c.client && (l.User == "" || l.User == id.String()) {
			return sight{open: true, sent: l.Sent}, nil
		}
	}
	return sight{}, nil
}

// hostOf is what counts as one host: an IPv4 address, or the /64 of an IPv6 one,
// of which a host has many and changes them.
func hostOf(address string) string {
	a, err := netip.ParseAddr(address)
	if err != nil {
		return address
	}
	a = a.Unmap().WithZone("")
	switch {
	case a == netip.IPv6Loopback():
		return "127.0.0.1" // a name like localhost is dialled either way
	case a.Is4():
		return a.String()
	}
	prefix, err := a.Prefix(64)
	if err != nil {
		return address
	}
	return prefix.String()
}
