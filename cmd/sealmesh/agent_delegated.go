package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

// showTree prints what an agent lent and was lent.
func (a *app) showTree(t wire.DelegationTree) error {
	t.Lent, t.Held = filled(t.Lent), filled(t.Held)
	return a.show(t, func(w io.Writer) {
		fmt.Fprintf(w, "%s, %s\n", t.Agent, clean(string(t.Status)))
		if len(t.Lent) == 0 {
			fmt.Fprintln(w, "lent nothing")
		}
		drawTree(w, "", t.Lent, func(v wire.LentView) string { return v.To.String() })
		if len(t.Held) > 0 {
			fmt.Fprintln(w, "\nholds of others")
		}
		drawTree(w, "", t.Held, func(v wire.LentView) string {
			var path []string
			for _, id := range v.Through {
				path = append(path, id.String())
			}
			return strings.Join(append(path, v.From.String()), " > ")
		})
	})
}

// filled gives every list of a tree a value.
func filled(list []wire.LentView) []wire.LentView {
	list = some(list)
	for i := range list {
		v := &list[i]
		v.Scopes, v.MayDelegate, v.Through, v.Lent = some(v.Scopes), some(v.MayDelegate), some(v.Through), filled(v.Lent)
	}
	return list
}

func drawTree(w io.Writer, indent string, list []wire.LentView, name func(wire.LentView) string) {
	for i, v := range list {
		mark, below := "├─ ", "│  "
		if i == len(list)-1 {
			mark, below = "└─ ", "   "
		}
		fmt.Fprintln(w, indent+mark+name(v)+": "+lentLine(v))
		drawTree(w, indent+below, v.Lent, name)
	}
}

// lentLine is one delegation in words.
func lentLine(v wire.LentView) string {
	s := names(v.Scopes) + " until " + when(&v.Expires)
	if v.Ended != "" {
		s += ", worth nothing: " + clean(string(v.Ended))
	}
	if v.Depth > 0 {
		s += ", may pass on " + names(v.MayDelegate) + " " + count(v.Depth, "time")
	}
	return s + ", " + count(v.Connections, "connection") + " (" + registry.ShortDigest(clean(v.Chain)) + ")"
}
