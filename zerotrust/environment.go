package zerotrust

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/org/spire-vault-99-action/spire/deploy"
	"github.com/org/spire-vault-99-action/zerotrust/vault"
)

// socketDir is the folder of the Workload API's socket, on the nodes and in pods.
var socketDir = path.Dir(deploy.WorkloadSocket)

// Environment derives what an application needs to know of the intent, as
// environment variables:
//
//   - SPIFFE_ENDPOINT_SOCKET and TRUST_DOMAIN;
//   - ALLOWED_CALLERS: the SPIFFE IDs of those with an edge to it, by commas;
//   - EDGES: a JSON list of every port of every other workload, each with "to",
//     "address" and whether an edge leads there from here ("allowed");
//   - with Access: VAULT_ADDR, VAULT_SPIFFE_ID, VAULT_AUTH_PATH, VAULT_ROLE,
//     VAULT_AUDIENCE, and VAULT_KV_MOUNT and VAULT_KV_PREFIX;
//   - with a database: VAULT_DB_ROLE (users for rows), VAULT_DB_SCHEMA_ROLE (users for
//     the schema), PGHOST, PGPORT, PGDATABASE and POSTGRES_SPIFFE_ID.
//
// Env of the workload comes last.
func Environment(in Intent, w Workload) (map[string]string, error) {
	edges, err := json.Marshal(edgesOf(in, w))
	if err != nil {
		return nil, err
	}
	var allowed []string
	for _, id := range callers(in, w) {
		allowed = append(allowed, id.String())
	}
	env := map[string]string{
		"SPIFFE_ENDPOINT_SOCKET": "unix://" + deploy.WorkloadSocket,
		"TRUST_DOMAIN":           in.TrustDomain,
		"ALLOWED_CALLERS":        strings.Join(allowed, ","),
		"EDGES":                  string(edges),
	}
	if a := w.Access; a != nil {
		server, _ := in.Running(Vault)
		grant := vault.Access{Name: w.Name}
		env["VAULT_ADDR"] = fmt.Sprintf("https://%s:%s", server.Host(), server.Ports[0])
		env["VAULT_SPIFFE_ID"] = in.ID(server).String()
		env["VAULT_AUTH_PATH"], env["VAULT_ROLE"], env["VAULT_AUDIENCE"] = vault.AuthPath, w.Name, vault.Audience
		if a.KV {
			env["VAULT_KV_MOUNT"], env["VAULT_KV_PREFIX"] = vault.KVPath, w.Name
		}
		if db, ok := in.Workload(a.Database); ok {
			env["VAULT_DB_ROLE"], env["VAULT_DB_SCHEMA_ROLE"] = grant.UserRole(), grant.SchemaRole()
			env["PGHOST"], env["PGPORT"], env["PGDATABASE"] = db.Host(), fmt.Sprint(db.Ports[0]), db.Database
			env["POSTGRES_SPIFFE_ID"] = in.ID(db).String()
		}
	}
	maps.Copy(env, w.Env)
	return env, nil
}

// reach is one edge, or the absence of one, as an application is told of it.
type reach struct {
	To      string `json:"to"`
	Address string `json:"address"`
	Allowed bool   `json:"allowed"`
}

func edgesOf(in Intent, w Workload) []reach {
	all := []reach{}
	for _, cell := range Matrix(in) {
		if cell.From == w.Name {
			to, _ := in.Workload(cell.To)
			all = append(all, reach{cell.To, fmt.Sprintf("%s:%d", to.Host(), cell.Port.Number), cell.Allowed})
		}
	}
	return all
}

// callers are the SPIFFE IDs of the intent that have an edge to the workload, in the
// edges' order.
func callers(in Intent, w Workload) []spiffeid.ID {
	var all []spiffeid.ID
	for _, e := range in.Edges {
		for _, from := range in.Workloads {
			if id := in.ID(from); e.To == w.Name && from.Name != w.Name && e.starts(from) && !slices.Contains(all, id) {
				all = append(all, id)
			}
		}
	}
	return all
}
