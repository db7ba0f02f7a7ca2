package vault

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Where things are mounted in Vault.
const (
	AuthPath     = "jwt"      // JWT-SVIDs
	KVPath       = "secret"   // KV version 2
	DatabasePath = "database" // credentials for PostgreSQL
)

// Audience is what a JWT-SVID for Vault must be made out to.
const Audience = "vault"

// AuditRole is the role of AuditID: it may read the configuration, and no secret.
const AuditRole = "zerotrust-audit"

// How long what a workload gets is valid.
const (
	tokenTTL  = 30 * time.Minute
	userTTL   = 20 * time.Minute
	schemaTTL = 5 * time.Minute
	auditTTL  = 2 * time.Minute
)

// Settings are what Vault is to be configured with. What is not in them does not
// exist in the mounts above.
type Settings struct {
	// Issuer is the "iss" of JWT-SVIDs. Keys is where their keys are to be had.
	Issuer string
	Keys   Endpoint
	// AuditID may read the configuration, under AuditRole.
	AuditID   spiffeid.ID
	Access    []Access
	Databases []Database
}

// Access is what one workload may do: log in with its JWT-SVID under the role Name,
// read and write KV secrets below Name, and get users of Database.
type Access struct {
	Name     string
	ID       spiffeid.ID
	KV       bool
	Database string // of Settings.Databases; "" for none
}

// Database is a PostgreSQL server of which Vault is the superuser.
type Database struct {
	Name      string // of the database in it
	Superuser string
	Endpoint
}

// Endpoint is a server that Vault calls over SPIFFE mTLS.
type Endpoint struct {
	Address string      // host:port
	ID      spiffeid.ID // who it must be
}

// Tunnel is the way to an Endpoint: a port in Vault's own pod, where a sidecar takes
// what Vault sends and passes it on over SPIFFE mTLS. Vault itself knows no SPIFFE IDs.
type Tunnel struct {
	Name string // among the tunnels
	Port int    // on 127.0.0.1
	Endpoint
}

// firstPort and firstStatusPort are those of the first tunnel; the others follow.
const (
	firstPort       = 15000
	firstStatusPort = 8091
)

// Tunnels are the ways that the settings need, for Config.
func (s Settings) Tunnels() []Tunnel {
	all := []Tunnel{{"keys", firstPort, s.Keys}}
	for i, d := range s.Databases {
		all = append(all, Tunnel{strings.ReplaceAll(d.Name, "_", "-"), firstPort + 1 + i, d.Endpoint})
	}
	return all
}

// UserRole and SchemaRole are the two kinds of users that a workload may get: one for
// the rows, one for the schema.
func (a Access) UserRole() string { return a.Name }

// SchemaRole is the database role for changing the schema.
func (a Access) SchemaRole() string { return a.Name + "-schema" }

// policyPrefix marks the policies that are ours.
const policyPrefix = "zerotrust-"

// Object is one thing in Vault: its path and the fields that are wanted there.
type Object struct {
	Path string
	Data map[string]any
}

// Objects derives all that Vault is to hold, in the order in which it can be
// written. Databases are in it without passwords.
func Objects(s Settings) []Object {
	var all []Object
	add := func(path string, data map[string]any) { all = append(all, Object{path, data}) }
	add("auth/"+AuthPath+"/config", map[string]any{"jwks_url": fmt.Sprintf("http://127.0.0.1:%d/keys", firstPort), "bound_issuer": s.Issuer, "default_role": ""})
	add("sys/policies/acl/"+AuditRole, map[string]any{"policy": auditPolicy})
	add(loginRole(AuditRole, s.AuditID, auditTTL, AuditRole))
	for i, d := range s.Databases {
		var users []string
		for _, a := range s.Access {
			if a.Database == d.Name {
				users = append(users, a.UserRole(), a.SchemaRole())
			}
		}
		slices.Sort(users)
		add(d.configPath(), map[string]any{
			"plugin_name":        "postgresql-database-plugin",
			"allowed_roles":      users,
			"connection_details": map[string]any{"connection_url": d.url(firstPort + 1 + i), "username": d.Superuser, "max_connection_lifetime": "5m"},
		})
	}
	for _, a := range s.Access {
		add("sys/policies/acl/"+policyPrefix+a.Name, map[string]any{"policy": a.policy()})
		add(loginRole(a.Name, a.ID, tokenTTL, policyPrefix+a.Name))
		if a.Database != "" {
			add(databaseRole(a.UserRole(), a.Database, userTTL, createUser(a.Database+"_rw")))
			add(databaseRole(a.SchemaRole(), a.Database, schemaTTL, append(createUser(a.Database+"_owner"),
				// What it creates belongs to the group, not to a user that will be gone.
				fmt.Sprintf(`ALTER ROLE "{{name}}" SET role = '%s_owner';`, a.Database))))
		}
	}
	return all
}

func (d Database) configPath() string { return DatabasePath + "/config/" + d.Name }

// url is for the plugin, which puts user and password in. The port is the tunnel's.
func (d Database) url(port int) string {
	return fmt.Sprintf("postgresql://{{username}}:{{password}}@127.0.0.1:%d/%s?sslmode=disable&connect_timeout=5", port, d.Name)
}

func loginRole(name string, id spiffeid.ID, ttl time.Duration, policies ...string) (string, map[string]any) {
	return "auth/" + AuthPath + "/role/" + name, map[string]any{
		"role_type": "jwt", "user_claim": "sub", "bound_subject": id.String(), "bound_audiences": []string{Audience},
		"token_policies": policies, "token_no_default_policy": true, "token_type": "service",
		"token_ttl": int(ttl.Seconds()), "token_max_ttl": int(ttl.Seconds()),
	}
}

func createUser(group string) []string {
	return []string{fmt.Sprintf(`CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE "%s";`, group)}
}

func databaseRole(name, database string, ttl time.Duration, create []string) (string, map[string]any) {
	return DatabasePath + "/roles/" + name, map[string]any{
		"db_name": database, "creation_statements": create,
		// A user that is gone shall have no session left.
		"revocation_statements": []string{
			`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}';`,
			`DROP ROLE IF EXISTS "{{name}}";`,
		},
		"default_ttl": int(ttl.Seconds()), "max_ttl": int(ttl.Seconds()),
	}
}

// policy is what the workload's tokens may do, in Vault's own language.
func (a Access) policy() string {
	var p strings.Builder
	rule := func(path string, capabilities ...string) {
		fmt.Fprintf(&p, "path %q {\n  capabilities = [%s]\n}\n", path, `"`+strings.Join(capabilities, `", "`)+`"`)
	}
	if a.KV {
		rule(KVPath+"/data/"+a.Name+"/*", "create", "read", "update", "delete")
		rule(KVPath+"/metadata/"+a.Name+"/*", "read", "delete", "list")
	}
	if a.Database != "" {
		rule(DatabasePath+"/creds/"+a.UserRole(), "read")
		rule(DatabasePath+"/creds/"+a.SchemaRole(), "read")
	}
	rule("auth/token/revoke-self", "update")
	rule("auth/token/lookup-self", "read")
	return p.String()
}

// auditPolicy reads configuration. No path of it gives a secret: Vault never shows the
// passwords of database connections.
const auditPolicy = `path "sys/auth" { capabilities = ["read"] }
path "sys/mounts" { capabilities = ["read"] }
path "sys/audit" { capabilities = ["read", "sudo"] }
path "sys/policies/acl" { capabilities = ["list"] }
path "sys/policies/acl/*" { capabilities = ["read"] }
path "auth/jwt/config" { capabilities = ["read"] }
path "auth/jwt/role" { capabilities = ["list"] }
path "auth/jwt/role/*" { capabilities = ["read"] }
path "database/config" { capabilities = ["list"] }
path "database/config/*" { capabilities = ["read"] }
path "database/roles" { capabilities = ["list"] }
path "database/roles/*" { capabilities = ["read"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
`
