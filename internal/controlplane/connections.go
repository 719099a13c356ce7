package controlplane

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/natsconf"
)

// listedAtOnce is how many connections a server lists at a time.
const listedAtOnce = 1024

// census is which connections the servers have.
type census struct {
	found  []target
	asked  map[string]bool // servers that told all that they have
	silent map[string]bool // known servers that did not, or not so that it can be used
}

// merge adds what was asked besides; a server counts as asked that answered every
// question.
func (c *census) merge(d *census) {
	c.found = append(c.found, d.found...)
	maps.Copy(c.silent, d.silent)
	maps.Copy(c.asked, d.asked)
	for s := range c.silent {
		delete(c.asked, s)
	}
}

// listing is how far one server's list was read.
type listing struct {
	last uint64 // highest number
	more bool
}

// take adds a page of so many at most.
func (l *listing) take(next page, size int, first bool) error {
	if !first && (next.n == 0 || next.first > l.last) {
		return errors.New("connections ended while they were listed")
	}
	l.last, l.more = next.last, next.n == size
	return nil
}

// connections asks every server for the agent's connections, or for all of the
// account MESH where id is zero.
//
// A list comes by pages, in the order of the connections' numbers, and what ends
// between two pages moves all that follows; so pages overlap, and a server whose
// next page does not reach back to the last one counts as silent: a connection
// that was not seen must not count as one that is not there.
func (p *Plane) connections(ctx context.Context, id agentid.ID) (*census, error) {
	c := &census{asked: map[string]bool{}, silent: map[string]bool{}}
	seen := map[connection]bool{}
	read := map[string]*listing{}
	step := p.page - max(1, p.page/8)
	for offset, more := 0, true; more; offset += step {
		ask := map[string]any{"auth": true, "acc": natsconf.Mesh, "limit": p.page, "offset": offset}
		if !id.IsZero() {
			ask["user"] = id.String()
		}
		body, err := json.Marshal(ask)
		if err != nil {
			return nil, err
		}
		more = false
		answered := map[string]bool{}
		silent, err := p.ping(ctx, "$SYS.REQ.SERVER.PING.CONNZ", body, func(server string, data json.RawMessage) error {
			answered[server] = true
			r := read[server]
			if r == nil {
				r = &listing{more: true}
				read[server] = r
				if offset > 0 {
					return errors.New("it was not there at the first page")
				}
			}
			if !r.more {
				return nil // it has told all
			}
			list, err := parseConnections(server, data, id)
			if err != nil {
				return err
			}
			if err := r.take(list, p.page, offset == 0); err != nil {
				return err
			}
			for _, t := range list.found {
				if !seen[t.connection] {
					seen[t.connection] = true
					c.found = append(c.found, t)
				}
			}
			more = more || r.more
			return nil
		})
		for _, s := range silent {
			if r := read[s]; r == nil || r.more || answered[s] {
				c.silent[s] = true
			}
		}
		if err != nil {
			return c, err
		}
	}
	for s, r := range read {
		if !r.more && !c.silent[s] {
			c.asked[s] = true
		}
	}
	return c, nil
}

// page is a part of one server's list.
type page struct {
	found       []target // what of it is wanted
	n           int
	first, last uint64 // lowest and highest number
}

// parseConnections reads one server's list and returns what of it is the agent's,
// or all of it where id is zero.
func parseConnections(server string, data json.RawMessage, id agentid.ID) (page, error) {
	var z struct {
		Connections *[]struct {
			ID   uint64 `json:"cid"`
			User string `json:"authorized_user"`
		} `json:"connections"`
	}
	if err := json.Unmarshal(data, &z); err != nil {
		return page{}, fmt.Errorf("connections of %s: %w", server, err)
	}
	if z.Connections == nil {
		return page{}, fmt.Errorf("connections of %s: none listed", server)
	}
	out := page{n: len(*z.Connections)}
	for i, c := range *z.Connections {
		if i == 0 {
			out.first = c.ID
		}
		out.first, out.last = min(out.first, c.ID), max(out.last, c.ID)
		agent, err := agentid.Parse(c.User)
		if err != nil {
			agent = agentid.ID{}
		}
		if agent == id || id.IsZero() {
			out.found = append(out.found, target{connection: connection{server, c.ID}, agent: agent})
		}
	}
	return out, nil
}
