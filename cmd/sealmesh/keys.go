package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/meshdir"
	"github.com/sealmesh/sealmesh/internal/wire"
)

func newKeys(a *app) *cobra.Command {
	return group("keys", "Show the mesh's own keys, certify them for longer, replace them", newKeysShow(a), newKeysRenew(a), newKeysRotate(a))
}

func newKeysShow(a *app) *cobra.Command {
	var offline bool
	c := &cobra.Command{
		Use:   "show",
		Short: "Show every key of the mesh, until when it counts, and what is still signed by an earlier one",
		Long: `Show the public form of every key that the mesh itself has, what it is for, until
when the authority certified it, and which is in use. The control plane also says how
many documents an earlier key signed, and by which keys each nats-server asks.
--offline reads the mesh directory alone.`,
		Args: takes(0, 0, ""),
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := a.keyList(c, offline)
			if err != nil {
				return err
			}
			return a.show(list, func(w io.Writer) { a.writeKeys(w, list) })
		},
	}
	c.Flags().BoolVar(&offline, "offline", false, "read the mesh directory, ask nobody")
	return c
}

func (a *app) keyList(c *cobra.Command, offline bool) (wire.KeyList, error) {
	if !offline {
		list, err := operate[wire.KeyList](c.Context(), a, wire.AdminRequest{Op: wire.OpKeys})
		list.Keys, list.Servers = some(list.Keys), some(list.Servers)
		return list, err
	}
	m, err := meshdir.Load(a.mesh)
	if err != nil {
		return wire.KeyList{}, err
	}
	keys, err := m.Keys(a.now())
	return wire.KeyList{Schema: wire.KeysSchema, Time: a.now().UTC(), Keys: some(keys), Documents: -1, Unsigned: -1, Servers: []wire.KeyServer{}}, err
}

func (a *app) writeKeys(w io.Writer, l wire.KeyList) {
	rows := [][]string{{"KEY", "PUBLIC", "CERTIFIED UNTIL", "STATE"}}
	for _, k := range l.Keys {
		until, state := "-", "kept for what it signed"
		if k.NotAfter != nil {
			until = k.NotAfter.UTC().Format(time.RFC3339)
		} else if !k.InUse {
			state = "kept for servers that still name it"
		}
		switch {
		case k.Leaving:
			state = "leaked: counts until nothing rests on it"
		case k.NotAfter != nil && !a.now().Before(*k.NotAfter):
			state = "ended"
		case k.InUse:
			state = "in use"
		}
		rows = append(rows, []string{k.Name, k.Public, until, state})
	}
	table(w, rows...)
	if l.Documents >= 0 {
		fmt.Fprintf(w, "%d of %d documents are signed by an earlier records key\n", l.Unsigned, l.Documents)
	}
	if l.Problem != "" {
		fmt.Fprintf(w, "not all could be signed anew: %q\n", l.Problem)
	}
	for _, s := range l.Servers {
		if s.Issuer == "" {
			fmt.Fprintf(w, "server %s has asked nothing yet\n", s.Server)
			continue
		}
		fmt.Fprintf(w, "server %s asks by issuer %s and xkey %s\n", s.Server, s.Issuer, s.XKey)
	}
}
