//! `sallyport-gateway`

use sallyport_ops::Exit;
use tikv_jemallocator::Jemalloc;

/// It gives back what idle clients no longer need; the C library keeps it where anything beside it is in use.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> Exit {
    sallyport_gateway::cli::main()
}
