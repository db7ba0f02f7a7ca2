// Package deploy runs SPIRE in a Kubernetes cluster: it installs server, agents and
// OIDC discovery provider, opens an admin connection to the server from outside,
// and waits until entries are usable on every node.
//
// The usual order is
//
//	deploy.Install(ctx, rest, cfg)      // server and agents run, agents have attested
//	conn, _ := deploy.Connect(ctx, rest, cfg)
//	spire.Sync(ctx, conn, append(deploy.Entries(cfg), more...), spire.SyncConfig{...})
//	deploy.WaitUsable(ctx, rest, cfg)   // delivered on each node
//
// Everything lies in manifests/, as it is applied but for names, images and
// the three config files.
package deploy
