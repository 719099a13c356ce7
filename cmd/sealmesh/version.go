package main

import (
	"cmp"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// versionDoc is sealmesh.version/v1.
type versionDoc struct {
	Schema   string `json:"schema"`
	Version  string `json:"version"`
	Commit   string `json:"commit,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func newVersion(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Show the version of this program",
		Args:  takes(0, 0, ""),
		RunE: func(_ *cobra.Command, _ []string) error {
			doc := versionDoc{Schema: "sealmesh.version/v1", Version: "unknown", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
			if info, ok := debug.ReadBuildInfo(); ok {
				doc.Version = cmp.Or(info.Main.Version, doc.Version)
				for _, s := range info.Settings {
					switch s.Key {
					case "vcs.revision":
						doc.Commit = s.Value
					case "vcs.modified":
						doc.Modified = s.Value == "true"
					}
				}
			}
			return a.show(doc, func(w io.Writer) { fmt.Fprintf(w, "sealmesh %s, %s, %s\n", doc.Version, doc.Go, doc.Platform) })
		},
	}
}
