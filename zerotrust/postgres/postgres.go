// Package postgres runs one PostgreSQL server in a cluster, with an SVID as its TLS
// identity. Its clients need a password and an SVID of the same trust domain. The
// superuser is admitted on AdminPort alone, to one SPIFFE ID; its first password lies in
// a Secret until Vault has changed it.
package postgres

import (
	"cmp"
	"context"
	"crypto/rand"
	"embed"
	"errors"
	"fmt"
	"regexp"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/org/spire-vault-99-action/internal/ghostunnel"
	"github.com/org/spire-vault-99-action/internal/kube"
	"github.com/org/spire-vault-99-action/internal/manifest"
	"github.com/org/spire-vault-99-action/internal/spiffehelper"
)

//go:embed manifests
var files embed.FS

// Image is the one that the manifests are written for.
const Image = "docker.io/library/postgres:15-bookworm"

// Port is where the server listens. AdminPort is that of the tunnel (SPIFFE mTLS) that the
// superuser comes in by.
const (
	Port      = 5432
	AdminPort = 5433
)

// Superuser is the user that Vault is.
const Superuser = "postgres"

// socketDir is where the server, and the tunnel, have its local socket.
const socketDir = "/var/run/postgresql"

// fieldManager owns what is applied.
const fieldManager = "zerotrust-postgres"

// Config says what to install. Database and Admin are required, the rest works as it is.
type Config struct {
	// Namespace, and the name of StatefulSet, Service and service account. "" is
	// "postgres" for both. The namespace must exist.
	Namespace, Name string
	// Database in the server: a lower-case word. The groups <database>_owner and
	// <database>_rw are made with it.
	Database string
	// Admin is who alone comes in by AdminPort: Vault.
	Admin spiffeid.ID
	// Image, HelperImage (spiffe-helper), TunnelImage (ghostunnel) and PullPolicy: "" is
	// Image, the releases that the manifests are written for, and IfNotPresent.
	Image, HelperImage, TunnelImage, PullPolicy string
	// SocketDir is the folder of the Workload API's agent.sock on the nodes. "" is
	// /run/spire/sockets.
	SocketDir string
	// StorageClass and StorageSize of its volume. "" is the default class, and 256Mi.
	StorageClass, StorageSize string
}

// word is one of SQL, in no need of quotes.
var word = regexp.MustCompile(`^[a-z][a-z0-9_]{0,39}$`)

func (c Config) withDefaults() (Config, error) {
	c.Namespace, c.Name = cmp.Or(c.Namespace, "postgres"), cmp.Or(c.Name, "postgres")
	c.Image, c.HelperImage = cmp.Or(c.Image, Image), cmp.Or(c.HelperImage, spiffehelper.Image)
	c.TunnelImage = cmp.Or(c.TunnelImage, ghostunnel.Image)
	c.PullPolicy = cmp.Or(c.PullPolicy, "IfNotPresent")
	c.SocketDir = cmp.Or(c.SocketDir, "/run/spire/sockets")
	c.StorageSize = cmp.Or(c.StorageSize, "256Mi")
	var faults []error
	if !word.MatchString(c.Database) {
		faults = append(faults, fmt.Errorf("Config.Database %q: want a lower-case word of at most 40 letters, digits and _", c.Database))
	}
	if c.Admin.IsZero() {
		faults = append(faults, errors.New("Config.Admin is required"))
	}
	faults = append(faults, manifest.Plain(map[string]string{
		"Namespace": c.Namespace, "Name": c.Name, "Image": c.Image, "HelperImage": c.HelperImage, "TunnelImage": c.TunnelImage,
		"PullPolicy": c.PullPolicy, "SocketDir": c.SocketDir, "StorageSize": c.StorageSize, "StorageClass": cmp.Or(c.StorageClass, "none"),
	}))
	if err := errors.Join(faults...); err != nil {
		return c, fmt.Errorf("postgres: %w", err)
	}
	return c, nil
}

// open fills the config in and makes a client.
func (c Config) open(cluster *rest.Config) (Config, *kube.Client, error) {
	c, err := c.withDefaults()
	if err != nil {
		return c, nil, err
	}
	client, err := kube.New(cluster)
	return c, client, err
}

// BootstrapSecret is the Secret with the superuser's first password. It is there from
// the first installation until Vault has changed the password.
func (c Config) BootstrapSecret() string { return c.Name + "-bootstrap" }

// Superuser and AdminPort are for the templates.
func (c Config) Superuser() string { return Superuser }

// AdminPort is the port of the same name.
func (c Config) AdminPort() int { return AdminPort }

// Manifests are the YAML documents of an installation, less the Secret: a pure
// function of cfg.
func Manifests(cfg Config) ([]byte, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	sidecar := spiffehelper.Config{Image: cfg.HelperImage, PullPolicy: cfg.PullPolicy, User: 999, Socket: cfg.SocketDir}
	tunnel := ghostunnel.Tunnel{
		Name: "tunnel", Mode: ghostunnel.Server, Listen: fmt.Sprintf("0.0.0.0:%d", AdminPort),
		Target: "unix:" + socketDir + "/.s.PGSQL.5432", Peers: []spiffeid.ID{cfg.Admin}, StatusPort: 8091,
	}
	v := struct {
		Config
		SVID                                                  any
		HBA, Roles, HelperConf, Helper, HelperVolumes, Tunnel string
	}{Config: cfg, SVID: spiffehelper.Files}
	render := func(name string) (string, error) {
		text, err := manifest.Render(files, "manifests/"+name, v, nil)
		return string(text), err
	}
	for _, part := range []struct {
		to   *string
		make func() (string, error)
	}{
		{&v.HBA, func() (string, error) { return render("pg_hba.conf") }},
		{&v.Roles, func() (string, error) { return render("roles.sql") }},
		{&v.HelperConf, spiffehelper.Conf},
		{&v.Helper, func() (string, error) { return spiffehelper.Container(sidecar) }},
		{&v.HelperVolumes, func() (string, error) { return spiffehelper.Volumes(sidecar, cfg.Name) }},
		{&v.Tunnel, func() (string, error) {
			return ghostunnel.Container(ghostunnel.Config{Image: cfg.TunnelImage, PullPolicy: cfg.PullPolicy, Volume: "spire-socket", Mounts: map[string]string{"run": socketDir}}, tunnel, true)
		}},
	} {
		if *part.to, err = part.make(); err != nil {
			return nil, fmt.Errorf("postgres: %w", err)
		}
	}
	text, err := render("postgres.yaml")
	if err != nil {
		return nil, fmt.Errorf("postgres: %w", err)
	}
	return []byte(text), nil
}

// Install applies the manifests and, for a server that is new, the Secret with a
// password made now. It does not wait: see WaitReady. It may be called again at any time.
func Install(ctx context.Context, cluster *rest.Config, cfg Config) error {
	cfg, client, err := cfg.open(cluster)
	if err != nil {
		return err
	}
	docs, err := Manifests(cfg)
	if err != nil {
		return err
	}
	_, err = client.Clientset().AppsV1().StatefulSets(cfg.Namespace).Get(ctx, cfg.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		err = makeBootstrap(ctx, client, cfg)
	}
	if err != nil {
		return fmt.Errorf("postgres: install in namespace %s: %w", cfg.Namespace, err)
	}
	if err := client.Apply(ctx, fieldManager, docs); err != nil {
		return fmt.Errorf("postgres: install in namespace %s: %w", cfg.Namespace, err)
	}
	return nil
}

// makeBootstrap makes the first password, unless an earlier run that was interrupted did.
func makeBootstrap(ctx context.Context, client *kube.Client, cfg Config) error {
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: cfg.BootstrapSecret(), Namespace: cfg.Namespace, Labels: map[string]string{"app.kubernetes.io/managed-by": "zerotrust"}},
		Data:       map[string][]byte{"password": []byte(rand.Text())},
	}
	_, err := client.Clientset().CoreV1().Secrets(cfg.Namespace).Create(ctx, secret, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("make Secret %s: %w", cfg.BootstrapSecret(), err)
	}
	return nil
}

// WaitReady waits until the server takes connections.
func WaitReady(ctx context.Context, cluster *rest.Config, cfg Config) error {
	cfg, client, err := cfg.open(cluster)
	if err != nil {
		return err
	}
	return client.WaitRollout(ctx, "StatefulSet", cfg.Namespace, cfg.Name)
}

// BootstrapPassword is the superuser's first password, "" once it is gone.
func BootstrapPassword(ctx context.Context, cluster *rest.Config, cfg Config) (string, error) {
	cfg, client, err := cfg.open(cluster)
	if err != nil {
		return "", err
	}
	secret, err := client.Clientset().CoreV1().Secrets(cfg.Namespace).Get(ctx, cfg.BootstrapSecret(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("postgres: read Secret %s/%s: %w", cfg.Namespace, cfg.BootstrapSecret(), err)
	}
	return string(secret.Data["password"]), nil
}

// DropBootstrap removes the Secret with the first password, which is worth nothing
// once Vault has changed it.
func DropBootstrap(ctx context.Context, cluster *rest.Config, cfg Config) error {
	cfg, client, err := cfg.open(cluster)
	if err != nil {
		return err
	}
	err = client.Clientset().CoreV1().Secrets(cfg.Namespace).Delete(ctx, cfg.BootstrapSecret(), metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("postgres: remove Secret %s/%s: %w", cfg.Namespace, cfg.BootstrapSecret(), err)
	}
	return nil
}
