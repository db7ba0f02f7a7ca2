package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/org/spire-vault-99-action/kindx"
)

// cleanupTime is for removing a cluster. The runner itself gives a cancelled step 10 seconds:
// what is not done by then, the post step does.
const cleanupTime = 2 * time.Minute

// remove removes the cluster of a step and its kubeconfig entry.
func (s state) remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTime)
	defer cancel()
	return kindx.Delete(ctx, s.Cluster, kindx.Config{Kubeconfig: s.Kubeconfig, StateDir: filepath.Join(s.Cache, "clusters")})
}

// removeOnCancel removes the cluster as soon as the workflow is cancelled, while the phases are
// still ending: there is not the time for one after the other. The channel is closed when
// there is nothing more to do, which needs ctx to end.
func (s *step) removeOnCancel(ctx context.Context) chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-ctx.Done()
		if !errors.Is(context.Cause(ctx), errInterrupted) {
			return
		}
		began := time.Now()
		st := s.snapshot()
		st.Result = cancelled
		yes, why := st.removes()
		if !yes {
			s.log.say("cancelled; %s", why)
			return
		}
		s.log.say("cancelled: removing cluster %s", st.Cluster)
		if err := st.remove(ctx); err != nil {
			s.log.warn(fmt.Errorf("removing cluster %s: %w: the post step tries again", st.Cluster, err))
			return
		}
		s.log.say("cluster %s is removed, %.1fs after the signal", st.Cluster, time.Since(began).Seconds())
	}()
	return done
}

// postStep cleans up what the main step left, however that ended, and returns the exit code.
func postStep(ctx context.Context, getenv func(string) string, stdout io.Writer) int {
	log := newLog(stdout, getenv)
	env, err := readEnvironment(getenv)
	if err != nil {
		log.fail(err)
		return 1
	}
	st, err := loadState(env.folder)
	if err != nil {
		log.fail(err)
		return 1
	}
	if st.Result == "" && st.Ours {
		// The main step was killed before it could do this.
		postLogs(ctx, log, st)
	}
	yes, why := st.removes()
	if !yes {
		log.say("nothing is removed: %s", why)
		return 0
	}
	if err := st.remove(ctx); err != nil {
		log.fail(fmt.Errorf("removing cluster %s: %w: by hand: kind delete cluster --name %s", st.Cluster, err, st.Cluster))
		return 1
	}
	log.say("cluster %s is removed", st.Cluster)
	return 0
}

// postLogs shows what can still be had of a cluster whose step was killed.
func postLogs(ctx context.Context, log *stepLog, st state) {
	e := &export{dir: st.LogsDir, kind: st.Cluster, spireOf: st.Cluster, trustDomain: st.TrustDomain, redact: log.redact}
	var err error
	if e.cluster, err = kindx.REST(ctx, st.Cluster); errors.Is(err, kindx.ErrNotFound) {
		return
	}
	tails, err := e.all(ctx)
	if err != nil {
		log.warn(err)
	}
	log.say("the step ended without a result; logs: %s", st.LogsDir)
	for _, t := range tails {
		log.quote("the end of the log of "+t.name, lastLines(t.text, tailBytes/4))
	}
}
