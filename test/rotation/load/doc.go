// Package load puts a mesh under a load in which every message has a number, while
// connections and certificates are replaced under it, and says of each message
// whether it was lost, doubled or refused. It judges nothing else, and does not care
// who issues the certificates:
//
//	m, err := devmesh.Start(ctx, dir, devmesh.Options{…})
//	report, err := load.Run(ctx, m, load.Options{For: 2 * time.Minute, Calls: 1000, Events: 1000, Progress: print})
//	if err == nil {
//		err = report.Err()
//	}
//
// Run enrols ten agents of its own, so a mesh bears one Run. Whoever wants something
// to happen in between (a control plane that restarts, an issuer that is sealed) does
// it beside Run, by a clock or by Options.Progress.
package load
