package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/wire"
)

// What is not confirmed is said, server by server, and is a failure.
func TestShowCut(t *testing.T) {
	bound := time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC)
	both := []wire.ServerCut{{Server: "NA", Name: "n1", Asked: true, Closed: 2, Left: 1}, {Server: "NB\x1b[2J"}}
	for name, tt := range map[string]struct {
		result wire.CutResult
		out    []string
		err    []string
	}{
		"confirmed":     {wire.CutResult{Confirmed: true, Cut: 2, Servers: both[:1]}, []string{"2 connections closed"}, nil},
		"not confirmed": {wire.CutResult{Servers: both, Unreachable: []string{"NB"}}, []string{"NA", "n1", "yes", "no answer"}, []string{"not reached: NB", "sealmesh status"}},
		"nobody can":    {wire.CutResult{Bound: &bound}, []string{"0 connections closed"}, []string{"2031-02-03T04:05:06Z", "no system account"}},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errs bytes.Buffer
			a := &app{stdout: &out, stderr: &errs, getenv: func(string) string { return "" }}
			tt.result.Agent = agentid.Require("victim")
			err := a.showCut("suspended", tt.result)
			var exit *said
			if (tt.err == nil) != (err == nil) || err != nil && (!errors.As(err, &exit) || exit.code != exitUnavailable) {
				t.Errorf("got %v", err)
			}
			for _, want := range tt.out {
				if !strings.Contains(out.String(), want) {
					t.Errorf("got %q, want %q in it", out.String(), want)
				}
			}
			for _, want := range tt.err {
				if !strings.Contains(errs.String(), want) {
					t.Errorf("got %q, want %q in it", errs.String(), want)
				}
			}
			if tt.result.Confirmed && strings.Contains(out.String(), "NA") {
				t.Errorf("got %q, want no word of servers where nothing is wrong", out.String())
			}
			if strings.Contains(out.String(), "\x1b") {
				t.Error("what a server calls itself reaches the terminal")
			}
		})
	}
}
