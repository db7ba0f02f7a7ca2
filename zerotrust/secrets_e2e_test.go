//go:build e2e

package zerotrust

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/org/spire-vault-99-action/internal/kube"
	"github.com/org/spire-vault-99-action/spire"
	"github.com/org/spire-vault-99-action/zerotrust/phase"
	"github.com/org/spire-vault-99-action/zerotrust/precinct"
	"github.com/org/spire-vault-99-action/zerotrust/report"
	"github.com/org/spire-vault-99-action/zerotrust/vault"
)

// kubeClient is a client of the lab's cluster.
func (l *lab) kubeClient(s *Stack) *kube.Client {
	l.Helper()
	client, err := s.kube(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	return client
}

// root is a session of Vault that may do everything, closed when the step ends.
func (l *lab) root(s *Stack) *vault.Session {
	l.Helper()
	server, _ := l.cfg.Intent.Running(Vault)
	conn, err := s.connectVault(l.Context(), server)
	if err != nil {
		l.Fatal(err)
	}
	session, err := conn.Root(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	l.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := session.Close(ctx); err != nil {
			l.Error(err)
		}
		conn.Close()
	})
	return session
}

// secretMarks begin what nobody may find anywhere: Vault's tokens, private keys, JWTs.
var secretMarks = []string{"hvs.", "PRIVATE KEY", "eyJhbGciOi"}

// noStaticSecret looks for secrets in manifests, images, logs and the report: the unseal
// key itself, tokens, keys, passwords. In Secrets it wants the unseal key alone.
func (l *lab) noStaticSecret() {
	s := l.stack()
	client := l.kubeClient(s)
	server, _ := l.cfg.Intent.Running(Vault)
	kept, err := client.Clientset().CoreV1().Secrets(server.Namespace).Get(l.Context(), server.Name+"-unseal-key", metav1.GetOptions{})
	if err != nil {
		l.Fatal(err)
	}
	key := string(kept.Data["key"])
	if len(key) < 40 {
		l.Fatalf("the unseal key is %d long", len(key))
	}
	marks := append(slices.Clone(secretMarks), key)
	held := func(data []byte) int {
		return slices.IndexFunc(marks, func(m string) bool { return bytes.Contains(data, []byte(m)) })
	}
	looked := 0
	look := func(where string, data []byte) {
		looked++
		if i := held(data); i >= 0 {
			l.Errorf("%s holds secret mark %d", where, i) // not the mark: it may be the key
		}
	}
	// What is looked for is found where it is: or nothing below would say anything.
	manifest := fmt.Appendf(nil, `{"env":[{"name":"KEY","value":%q}]}`, key)
	if held(manifest) != len(marks)-1 || held([]byte(`{"token":"hvs.x"}`)) != 0 || held([]byte("{}")) >= 0 {
		l.Fatal("the search does not find what it is for")
	}
	for _, ns := range l.cfg.Intent.Namespaces() {
		secrets, err := client.Clientset().CoreV1().Secrets(ns).List(l.Context(), metav1.ListOptions{})
		if err != nil {
			l.Fatal(err)
		}
		for _, secret := range secrets.Items {
			if secret.Name != kept.Name {
				l.Errorf("namespace %s has Secret %s", ns, secret.Name)
			}
		}
		for _, kind := range []schema.GroupVersionResource{
			{Version: "v1", Resource: "configmaps"}, {Version: "v1", Resource: "pods"}, {Version: "v1", Resource: "serviceaccounts"}, {Version: "v1", Resource: "events"},
			{Group: "apps", Version: "v1", Resource: "deployments"}, {Group: "apps", Version: "v1", Resource: "statefulsets"},
		} {
			l.eachObject(client, kind, ns, look)
		}
		l.eachLog(client, ns, look)
	}
	l.eachLog(client, "spire-system", look)
	for _, pkg := range s.programPackages() {
		p, err := s.program(l.Context(), pkg)
		if err != nil {
			l.Fatal(err)
		}
		img, _ := s.resolved(p.ref)
		l.noStaticSecretIn(p.ref, img, key)
	}
	r := l.green(phase.Options{VerifyOnly: true})
	var doc bytes.Buffer
	if err := report.JSON(&doc, r); err != nil {
		l.Fatal(err)
	}
	look("the report", doc.Bytes())
	l.Logf("looked into %d objects, logs and reports", looked)
	if looked < 30 {
		l.Errorf("only %d places were looked into", looked)
	}
}

// noStaticSecretIn looks into an image's files for what only a secret would be. (That
// a program knows the beginning of a PEM block is none.)
func (l *lab) noStaticSecretIn(ref string, img v1.Image, key string) {
	l.Helper()
	content := mutate.Extract(img)
	defer content.Close()
	data, err := io.ReadAll(content)
	if err != nil {
		l.Fatal(err)
	}
	for _, m := range []string{key, " PRIVATE KEY-----\nMII"} {
		if bytes.Contains(data, []byte(m)) {
			l.Errorf("image %s holds a secret", ref)
		}
	}
}

func (l *lab) eachObject(client *kube.Client, kind schema.GroupVersionResource, ns string, look func(string, []byte)) {
	l.Helper()
	list, err := client.Dynamic().Resource(kind).Namespace(ns).List(l.Context(), metav1.ListOptions{})
	if err != nil {
		l.Fatal(err)
	}
	err = list.EachListItem(func(o runtime.Object) error {
		item := o.(*unstructured.Unstructured)
		data, err := item.MarshalJSON()
		look(fmt.Sprintf("%s %s/%s", kind.Resource, ns, item.GetName()), data)
		return err
	})
	if err != nil {
		l.Fatal(err)
	}
}

func (l *lab) eachLog(client *kube.Client, ns string, look func(string, []byte)) {
	l.Helper()
	pods, err := client.Clientset().CoreV1().Pods(ns).List(l.Context(), metav1.ListOptions{})
	if err != nil {
		l.Fatal(err)
	}
	for _, p := range pods.Items {
		for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
			data, err := client.Clientset().CoreV1().Pods(ns).GetLogs(p.Name, &corev1.PodLogOptions{Container: c.Name}).DoRaw(l.Context())
			if err != nil {
				l.Fatalf("log of %s/%s %s: %v", ns, p.Name, c.Name, err)
			}
			look(fmt.Sprintf("log of %s/%s %s", ns, p.Name, c.Name), data)
		}
	}
}

// vaultDrift widens a role and a policy by hand and adds a back door: each is seen by
// the check, and the next run puts it right.
func (l *lab) vaultDrift() {
	session := l.root(l.stack())
	for path, data := range map[string]map[string]any{
		"auth/jwt/role/backend":              {"bound_subject": "spiffe://demo.local/ns/99-apps/sa/intruder", "role_type": "jwt", "user_claim": "sub", "bound_audiences": "vault"},
		"sys/policies/acl/zerotrust-backend": {"policy": `path "*" { capabilities = ["read"] }`},
		"auth/jwt/role/backdoor":             {"bound_subject": "spiffe://demo.local/ns/99-apps/sa/intruder", "role_type": "jwt", "user_claim": "sub", "bound_audiences": "vault"},
	} {
		if err := session.Write(l.Context(), path, data); err != nil {
			l.Fatal(err)
		}
	}
	r, err := l.run(l.Context(), phase.Options{VerifyOnly: true, Only: []string{"secrets"}}, nil)
	c := l.checkOf(r, "vault configured")
	if err == nil || c.Status != phase.Failed {
		l.Fatalf("the drift was not seen: %s, %v", c.Status, c.Err)
	}
	for _, want := range []string{"change auth/jwt/role/backend: bound_subject", "change sys/policies/acl/zerotrust-backend: policy", "remove auth/jwt/role/backdoor"} {
		if !strings.Contains(c.Err.Error(), want) {
			l.Errorf("not told: %s\nin: %v", want, c.Err)
		}
	}
	l.green(phase.Options{Only: []string{"secrets"}})
}

// svidRenewed has SPIRE issue other SVIDs for Vault and PostgreSQL: their listeners
// must present them, and no container start again.
func (l *lab) svidRenewed() {
	s := l.stack()
	client := l.kubeClient(s)
	before := l.servers(client)
	serials := l.serials(s)
	conn, err := s.spire(l.Context())
	if err != nil {
		l.Fatal(err)
	}
	want, err := Entries(l.cfg.Intent)
	if err != nil {
		l.Fatal(err)
	}
	for i := range want {
		if slices.ContainsFunc(l.cfg.Intent.Workloads, func(w Workload) bool { return w.Runs != "" && want[i].SPIFFEID == l.cfg.Intent.ID(w) }) {
			want[i].X509TTL = 10 * time.Minute
		}
	}
	if _, err := spire.Sync(l.Context(), conn, want, s.syncConfig()); err != nil {
		l.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(l.Context(), 2*time.Minute)
	defer cancel()
	began := time.Now()
	err = kube.Wait(ctx, "both listeners to present new SVIDs", time.Second, func(context.Context) (bool, string, error) {
		now := l.serials(s)
		return now[0] != serials[0] && now[1] != serials[1], fmt.Sprintf("before %v, now %v", serials, now), nil
	})
	if err != nil {
		l.Fatal(err)
	}
	l.Logf("new SVIDs presented after %s", time.Since(began).Round(100*time.Millisecond))
	if after := l.servers(client); after != before {
		l.Errorf("a container started again:\nbefore %s\nafter  %s", before, after)
	}
	l.green(phase.Options{Only: []string{"identities"}})
}

// serials are the serial numbers of the certificates that Vault and PostgreSQL present.
func (l *lab) serials(s *Stack) [2]string {
	l.Helper()
	server, _ := l.cfg.Intent.Running(Vault)
	db := s.databases()[0]
	var all [2]string
	for i, w := range []Workload{server, db} {
		cert, err := s.presented(l.Context(), w)
		if err != nil {
			l.Fatal(err)
		}
		all[i] = cert.SerialNumber.String()
	}
	return all
}

// servers tells the containers of Vault and PostgreSQL, with how often they started.
func (l *lab) servers(client *kube.Client) string {
	l.Helper()
	var all []string
	for _, ns := range []string{"99-vault", "99-data"} {
		pods, err := client.Clientset().CoreV1().Pods(ns).List(l.Context(), metav1.ListOptions{})
		if err != nil {
			l.Fatal(err)
		}
		for _, p := range pods.Items {
			for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
				all = append(all, fmt.Sprintf("%s %s %s %d", p.UID, c.Name, c.ContainerID, c.RestartCount))
			}
		}
	}
	return strings.Join(all, "\n")
}

// unguardedPod wants the admission policy to refuse what it should, and to say why.
func (l *lab) unguardedPod() {
	client := l.kubeClient(l.stack())
	no, yes, uid := false, true, int64(65532)
	good := func() *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "guarded-", Namespace: "99-apps"},
			Spec: corev1.PodSpec{
				SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: &yes, RunAsUser: &uid, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
				Containers: []corev1.Container{{
					Name: "c", Image: "none", VolumeMounts: []corev1.VolumeMount{{Name: "s", MountPath: "/s", ReadOnly: true}},
					SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
				}},
				Volumes: []corev1.Volume{{Name: "s", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: socketDir}}}},
			},
		}
	}
	for name, tc := range map[string]struct {
		change func(*corev1.Pod)
		want   string // "" is admitted
	}{
		"as it should be":    {func(*corev1.Pod) {}, ""},
		"another folder":     {func(p *corev1.Pod) { p.Spec.Volumes[0].HostPath.Path = "/run/spire/admin-sockets" }, "the only folder of the node"},
		"a writable socket":  {func(p *corev1.Pod) { p.Spec.Containers[0].VolumeMounts[0].ReadOnly = false }, "mounted read-only"},
		"the node's network": {func(p *corev1.Pod) { p.Spec.HostNetwork = true }, "may not share the node's network"},
		"root":               {func(p *corev1.Pod) { root := int64(0); p.Spec.Containers[0].SecurityContext.RunAsUser = &root }, "not run as root"},
		"no seccomp":         {func(p *corev1.Pod) { p.Spec.SecurityContext.SeccompProfile = nil }, "seccomp profile"},
		"privileged": {func(p *corev1.Pod) {
			p.Spec.Containers[0].SecurityContext.Privileged = &yes
			p.Spec.Containers[0].SecurityContext.AllowPrivilegeEscalation = &yes
		}, "drop ALL capabilities"},
		"a capability": {func(p *corev1.Pod) {
			p.Spec.Containers[0].SecurityContext.Capabilities.Add = []corev1.Capability{"NET_RAW"}
		}, "add none"},
		"no context at all": {func(p *corev1.Pod) { p.Spec.Containers[0].SecurityContext = nil }, "drop ALL capabilities"},
	} {
		p := good()
		tc.change(p)
		_, err := client.Clientset().CoreV1().Pods(p.Namespace).Create(l.Context(), p, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		switch {
		case tc.want == "" && err != nil:
			l.Errorf("%s: refused: %v", name, err)
		case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
			l.Errorf("%s: got %v, want a refusal that says %q", name, err, tc.want)
		}
	}
}

// innerLoop edits the frontend in a copy of the source tree: the next run builds, loads
// and rolls that workload alone.
func (l *lab) innerLoop() {
	dir := filepath.Join(l.TempDir(), "src")
	before := l.podsOf()
	l.green(phase.Options{Only: []string{"apps"}})
	if after := l.podsOf(); !equalPods(before, after, "") {
		l.Fatalf("without an edit pods changed:\n%v\n%v", before, after)
	}
	if err := copyTree("..", dir); err != nil {
		l.Fatal(err)
	}
	file := filepath.Join(dir, "examples/precinct/frontend/main.go")
	src, err := os.ReadFile(file)
	if err != nil {
		l.Fatal(err)
	}
	src = append(src, []byte("\nfunc init() { edited = true }\n\nvar edited bool\n")...)
	if err := os.WriteFile(file, src, 0o644); err != nil {
		l.Fatal(err)
	}
	l.cfg.SourceDir = dir
	began := time.Now()
	r := l.green(phase.Options{Only: []string{"apps"}})
	l.Logf("from an edit in frontend to its new pod: %.1f s", time.Since(began).Seconds())
	if after := l.podsOf(); !equalPods(before, after, "frontend") {
		l.Errorf("the edit of frontend changed other pods, or not its own:\n%v\n%v", before, after)
	}
	if c := l.checkOf(r, "workload frontend"); c.Status != phase.Passed {
		l.Errorf("workload frontend: %v", c.Err)
	}
	// Back to what the other steps know.
	l.cfg.SourceDir = ".."
	if r, err := l.run(l.Context(), phase.Options{VerifyOnly: true, Only: []string{"apps"}}, nil); err == nil || l.checkOf(r, "workload frontend").Status != phase.Failed {
		l.Errorf("pods of another build were not seen: %v", err)
	}
	l.green(phase.Options{Only: []string{"apps"}})
}

// copyTree copies what git would see of a source tree over another.
func copyTree(from, to string) error {
	list := exec.Command("git", "ls-files", "--cached", "--others", "--exclude-standard")
	list.Dir = from
	out, err := list.Output()
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(out)) {
		data, err := os.ReadFile(filepath.Join(from, name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.MkdirAll(filepath.Dir(filepath.Join(to, name)), 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(to, name), data, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// podsOf are the UIDs of the workloads' pods, by workload.
func (l *lab) podsOf() map[string]string {
	l.Helper()
	client := l.kubeClient(l.stack())
	all := map[string]string{}
	for _, w := range l.cfg.Intent.Workloads {
		pods, err := client.ReadyPods(l.Context(), w.Namespace, "app="+w.Name)
		if err != nil || len(pods) != 1 {
			l.Fatalf("%s has %d ready pods, %v", w.Name, len(pods), err)
		}
		all[w.Name] = string(pods[0].UID)
	}
	return all
}

// equalPods wants the pods of all workloads to be the same but for one.
func equalPods(a, b map[string]string, other string) bool {
	for name, uid := range a {
		if (b[name] == uid) != (name != other) {
			return false
		}
	}
	return len(a) == len(b)
}

// drills runs the drills as the program does.
func (l *lab) drills() {
	s := l.stack()
	site := precinct.NewSite(fmt.Sprintf("http://127.0.0.1:%d", sitePort))
	r, err := phase.Run(l.Context(), []*phase.Phase{{
		Name: "drills", Serial: true, Timeout: 20 * time.Minute,
		Checks: slices.Concat([]phase.Check{s.Wiretap(site), precinct.RotationCheck(site, 20)}, s.Drills(site), slices.DeleteFunc(s.Mutations(), func(c phase.Check) bool {
			return c.Name != "without the SPIRE server" // the others are taken away in TestE2EOrders
		})),
	}}, nil)
	for _, c := range r.Phases[0].Checks {
		l.Logf("%-42s %s: %s", c.Name, c.Status, c.Evidence.Got)
	}
	if err != nil {
		l.Fatal(err)
	}
	l.inTheClear(site)
}

// inTheClear takes an edge that is plain for one that is encrypted: it has to be found out.
func (l *lab) inTheClear(site Marked) {
	l.Helper()
	s := l.stack()
	s.cfg.Intent.Workloads = slices.Clone(s.cfg.Intent.Workloads)
	for i, w := range s.cfg.Intent.Workloads {
		s.cfg.Intent.Workloads[i].MTLS = w.MTLS || w.Publish != nil
	}
	ev, err := s.Wiretap(site).Run(l.Context())
	if _, failed := errors.AsType[*phase.Mismatch](err); !failed || !strings.Contains(err.Error(), "outside → frontend:3000: ") {
		l.Errorf("an edge in plain HTTP passes for encrypted: %v\n%s", err, strings.Join(ev.Details, "\n"))
	}
}
