package fromsource

import (
	"fmt"
	"sync"
	"time"
)

// Event is one step of building.
type Event struct {
	What      string        // "compiling spire", "image quay.io/..."
	Done      int           // packages compiled so far
	Total     int           // packages known to be compiled in all
	Elapsed   time.Duration // since the first build of this Builder
	Remaining time.Duration // estimated from the pace so far; 0 while unknown
}

func (e Event) String() string {
	s := fmt.Sprintf("%s (%d of %d packages, %s so far", e.What, e.Done, e.Total, e.Elapsed.Round(time.Second))
	if e.Remaining > 0 {
		s += fmt.Sprintf(", about %s to go", e.Remaining.Round(time.Second))
	}
	return s + ")"
}

// usualPackages stands in for a recipe whose packages are not yet counted.
const usualPackages = 1200

// enoughPackages must be compiled before their pace says anything: the first
// one waits for downloads.
const enoughPackages = 20

// interval is how long apart events about compiling are: a log of a long build
// should stay readable.
const interval = 5 * time.Second

// progress turns what is compiled into events.
type progress struct {
	emit func(Event)
	now  func() time.Time

	mu        sync.Mutex
	start     time.Time
	last      time.Time
	planned   int // recipes whose packages are not counted yet
	total     int
	done      int
	perRecipe map[string]int // compiled of each recipe
	counted   map[string]int
}

func newProgress(emit func(Event)) *progress {
	if emit == nil {
		emit = func(Event) {}
	}
	return &progress{emit: emit, now: time.Now, perRecipe: map[string]int{}, counted: map[string]int{}}
}

// plan says that so many more recipes are to be built.
func (p *progress) plan(recipes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.start.IsZero() {
		p.start = p.now()
	}
	p.planned += recipes
}

// waiting says that another process builds now, which holds the lock file.
func (p *progress) waiting(lock string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.start.IsZero() {
		p.start = p.now()
	}
	p.event("waiting for another process that builds, which holds "+lock, true)
}

// packages says how many packages a recipe has.
func (p *progress) packages(recipe string, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.planned = max(0, p.planned-1)
	p.total += n
	p.counted[recipe] = n
	p.event("compiling "+recipe, true)
}

func (p *progress) compiled(recipe string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.perRecipe[recipe] >= p.counted[recipe] {
		return // a package compiled twice, with other tags
	}
	p.perRecipe[recipe]++
	p.done++
	p.event("compiling "+recipe, false)
}

func (p *progress) finished(recipe string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done += p.counted[recipe] - p.perRecipe[recipe] // found in a build cache
	p.perRecipe[recipe] = p.counted[recipe]
	p.event("compiled "+recipe, true)
}

func (p *progress) image(ref string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.event("image "+ref, true)
}

func (p *progress) event(what string, always bool) {
	now := p.now()
	if !always && now.Sub(p.last) < interval {
		return
	}
	p.last = now
	e := Event{What: what, Done: p.done, Total: p.total + p.planned*usualPackages, Elapsed: now.Sub(p.start)}
	if p.done >= enoughPackages && e.Total > p.done {
		e.Remaining = time.Duration(float64(e.Elapsed) * float64(e.Total-p.done) / float64(p.done))
	}
	p.emit(e)
}
